"""The release of AMD's collective library."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Root, Unreadable

HEADERS = ("/opt/rocm/include/rccl/rccl.h", "/usr/include/rccl/rccl.h")
BAD = (2, 27, 7)


def look(machine: Machine) -> Outcome:
    machine.cards("AMD", least=2)
    path, version = installed(machine.root)
    evidence = f"{path}: {'.'.join(map(str, version))} (a Python package may bring another)"
    return found(evidence) if version == BAD else passed(evidence)


def installed(root: Root) -> tuple[str, tuple[int, ...]]:
    """Of the system: where it says so, and the release. Raises Unreadable."""
    path = next((path for path in HEADERS if root.has(path)), HEADERS[0])
    text = root.text(path)
    numbers = [re.search(rf"#define NCCL_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    if None in numbers:
        raise Unreadable(path, "it names no version")
    return path, tuple(int(number[1]) for number in numbers if number)


CHECK = Check(
    id="amd.rccl",
    title="RCCL release",
    reads=HEADERS,
    healthy="not 2.27.7",
    symptom="The first all-reduce never returns, or faults, on some pairs of Radeon cards.",
    fix=Fix(
        "Upgrade RCCL; or set NCCL_PROTO=Simple; or NCCL_P2P_DISABLE=1, which goes through the host.",
        {
            "": ("export NCCL_PROTO=Simple",),
            "debian": ("sudo apt update && sudo apt full-upgrade",),
            "fedora": ("sudo dnf upgrade rccl",),
            "arch": ("sudo pacman -Syu rccl",),
        },
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=("https://github.com/ROCm/rccl/releases",),
    look=look,
)
