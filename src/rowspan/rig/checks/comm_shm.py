"""Check: shared memory carries data between CPU ranks."""

from __future__ import annotations

from rowspan.plan.routes import Transport
from rowspan.rig.check import Check, Fix, Impact, Need, Sureness
from rowspan.rig.transports import HEALTHY, READS, look_at

CHECK = Check(
    id="comm.shm",
    title="Data through shared memory between CPU ranks",
    reads=(READS,),
    healthy=HEALTHY,
    symptom="Garbled or no output from --devices cpu:0,cpu:1, and good output from cpu:0 alone.",
    fix=Fix(
        "Rowspan uses sockets meanwhile, which is slower. Look in the kernel's log for memory errors, test the memory, "
        "and update kernel or hypervisor.",
        {"": ("sudo dmesg | grep -iE 'mce|edac|hardware error'",)},
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://man7.org/linux/man-pages/man2/memfd_create.2.html",),
    look=look_at(Transport.SHARED),
)
