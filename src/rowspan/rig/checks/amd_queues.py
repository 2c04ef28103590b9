"""Check: programs do not ask AMD cards for more queues than these run at once."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import LogPattern


def look(machine: Machine) -> Outcome:
    machine.cards("AMD")
    hits = machine.hits(CHECK.id)
    if not hits.count:
        return passed("the kernel's log since boot: no such line")
    return found(f"the kernel's log since boot: {hits.count} lines", hits=tuple(hits.latest))


CHECK = Check(
    id="amd.queues",
    title="More queues than AMD cards run at once",
    reads=("journalctl -k -b, or dmesg",),
    healthy="no such line",
    symptom="Cards take turns between queues: everything is slower while many programs, or one with many streams, run.",
    errors=("Runlist is getting oversubscribed. Expect reduced ROCm performance.",),
    fix=Fix(
        "Run one process per card, and give each few queues: GPU_MAX_HW_QUEUES=2.",
        {"": ("GPU_MAX_HW_QUEUES=2 rowspan serve MODEL",)},
    ),
    need=Need.ANY,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://github.com/ROCm/legacy-rocm-build/issues/2705",),
    look=look,
    log=(LogPattern("oversubscribed", r"[Rr]unlist is getting oversubscribed"),),
)
