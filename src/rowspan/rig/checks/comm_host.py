"""Check: the host's pinned memory carries data between cards. Cards without peer-to-peer, or with a broken one, need
it.
"""

from __future__ import annotations

from rowspan.plan.routes import Transport
from rowspan.rig.check import Check, Fix, Impact, Need, Sureness
from rowspan.rig.transports import HEALTHY, READS, look_at

CHECK = Check(
    id="comm.host",
    title="Data through the host's memory between cards",
    reads=(READS,),
    healthy=HEALTHY,
    symptom="Garbled output from several cards, or from a card and the CPU, whatever is switched off between cards.",
    fix=Fix(
        "Rowspan uses sockets meanwhile, which is slower. Reseat cards and risers, and look in the kernel's log for "
        "errors of the bus and of the memory.",
        {"": ("sudo dmesg | grep -iE 'aer|mce|edac|iommu|hardware error'",)},
    ),
    need=Need.SEVERAL,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.nvidia.com/cuda/cuda-c-best-practices-guide/index.html#pinned-memory",),
    look=look_at(Transport.HOST, cards=1),
)
