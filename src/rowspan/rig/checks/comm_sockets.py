"""Check: sockets carry data between CPU ranks, which use them if nothing else works."""

from __future__ import annotations

from rowspan.plan.routes import Transport
from rowspan.rig.check import Check, Fix, Impact, Need, Sureness
from rowspan.rig.transports import HEALTHY, READS, look_at

CHECK = Check(
    id="comm.sockets",
    title="Data through Unix sockets between ranks",
    reads=(READS,),
    healthy=HEALTHY,
    symptom="No engine of several ranks starts where shared memory cannot be used either.",
    fix=Fix(
        "See whether the sandbox or container allows socketpair(), and whether the kernel's log has memory errors."
    ),
    need=Need.ANY,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://man7.org/linux/man-pages/man2/socketpair.2.html",),
    look=look_at(Transport.SOCKETS),
)
