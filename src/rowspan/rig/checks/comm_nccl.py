"""Check: NCCL, or RCCL, carries data between cards."""

from __future__ import annotations

from rowspan.plan.routes import Transport
from rowspan.rig.check import Check, Fix, Impact, Need, Sureness
from rowspan.rig.transports import HEALTHY, READS, look_at

CHECK = Check(
    id="comm.nccl",
    title="Collectives between cards (NCCL, RCCL)",
    reads=(READS,),
    healthy=HEALTHY,
    symptom="Several cards hang at the first token, crash, or write garbage; one card alone is well.",
    errors=("Watchdog caught collective operation timeout", "unhandled cuda error", "unhandled system error"),
    fix=Fix(
        "Rowspan goes through the host's memory meanwhile. For other programs try these one by one, then a newer "
        "driver and library.",
        {"": ("export NCCL_P2P_DISABLE=1", "export NCCL_PROTO=Simple")},
    ),
    need=Need.SEVERAL,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html",),
    look=look_at(Transport.NCCL, cards=2),
)
