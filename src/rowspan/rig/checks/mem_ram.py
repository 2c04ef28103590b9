"""Check: there is enough RAM to load weights through."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Unreadable

MEMINFO = "/proc/meminfo"


def look(machine: Machine) -> Outcome:
    sizes = [card.memory_total for card in machine.cards()]
    memory = machine.rig.memory
    if not memory.total:
        raise Unreadable(MEMINFO, "missing")
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise Unreadable("the memory of a card", "its driver does not say")
    largest = max(known)
    evidence = f"{MEMINFO}: {memory.free / 1e9:.1f} GB available; the largest card holds {largest / 1e9:.1f} GB"
    return found(evidence) if memory.free < largest else passed(evidence)


CHECK = Check(
    id="mem.ram",
    title="Memory to load through",
    reads=(MEMINFO, "/sys/fs/cgroup/memory.max"),
    healthy="room for what one card holds, which is read from the disk through memory",
    symptom="Loading a large model thrashes and takes minutes.",
    fix=Fix(
        "Free memory, add memory or swap, or load models that are smaller than this.",
        {"": ("free -h", "swapon --show")},
    ),
    need=Need.ANY,
    impact=Impact.NOTE,
    sureness=Sureness.LOW,
    sources=("https://docs.kernel.org/filesystems/proc.html",),
    look=look,
)
