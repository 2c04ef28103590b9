"""Check: there is enough shared memory, through which cards without peer-to-peer exchange data."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Missing, Unreadable

MOUNTS = "/proc/self/mounts"
LEAST = 10**9
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def look(machine: Machine) -> Outcome:
    machine.cards(least=2)
    mounts = re.findall(r"^\S+ /dev/shm tmpfs (\S+)", machine.root.text(MOUNTS), re.MULTILINE)
    if not mounts:
        raise Missing(f"/dev/shm in {MOUNTS}")
    given = re.search(r"(?:^|,)size=(\d+)([kmg]?)", mounts[-1])  # the last mount hides earlier ones
    if given:
        size, told = int(given[1]) * UNITS[given[2]], given[0].strip(",")
    else:
        size, told = machine.rig.memory.total // 2, "no size given: half of the memory"
    if not size:
        raise Unreadable(MOUNTS, "the size of /dev/shm cannot be told")
    evidence = f"{MOUNTS}: /dev/shm {told}, {size / 1e9:.2f} GB"
    return found(evidence) if size < LEAST else passed(evidence)


CHECK = Check(
    id="mem.shm",
    title="Shared memory",
    reads=(MOUNTS,),
    healthy="/dev/shm of 1 GB or more",
    symptom="NCCL or RCCL stops at start, most often in a container.",
    errors=("failed to extend /dev/shm/nccl-",),
    fix=Fix(
        "Start the container with the host's shared memory, or with more of its own.",
        {"": ("docker run --ipc=host …", "docker run --shm-size=8g …", "sudo mount -o remount,size=8g /dev/shm")},
    ),
    need=Need.SEVERAL,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html",),
    look=look,
)
