"""Check: the installed release of AMD's collective library (RCCL) is not the one that hangs."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.rccl import BAD, HEADERS, rccl_release


def look(machine: Machine) -> Outcome:
    machine.cards("AMD", least=2)
    path, version = rccl_release(machine.root)
    evidence = f"{path}: {'.'.join(map(str, version))} (a Python package may bring another)"
    return found(evidence) if version == BAD else passed(evidence)


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
