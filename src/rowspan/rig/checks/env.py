"""Check: no forgotten environment variable or configuration file changes how cards talk to each other."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed

VARIABLES = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE")
PRESENCE_ENABLES = "GGML_CUDA_P2P"  # whatever its value, even 0
FILE = "/etc/nccl.conf"


def look(machine: Machine) -> Outcome:
    machine.cards(least=2)
    environment = machine.root.environment
    told = [f"{name}={environment[name]}" for name in (*VARIABLES, PRESENCE_ENABLES) if name in environment]
    if machine.root.has(FILE):
        lines = (line.strip() for line in machine.root.text(FILE).splitlines())
        told += [f"{FILE}: {line}" for line in lines if line.startswith("NCCL_")]
    if not told:
        return passed(f"none of {', '.join((*VARIABLES, PRESENCE_ENABLES))} is set here; nothing in {FILE}")
    without_peers = any(peer.direct is False for peer in machine.rig.peers)
    impact = Impact.BREAKS if PRESENCE_ENABLES in environment and without_peers else None
    return found(*told, impact=impact)


CHECK = Check(
    id="env",
    title="Settings that change how cards talk",
    reads=(*VARIABLES, PRESENCE_ENABLES, FILE),
    healthy="not set, or meant",
    symptom="Transfers silently go through the host, or peer-to-peer is switched on by accident: the mere presence of "
    "GGML_CUDA_P2P does it, even with the value 0.",
    fix=Fix(
        "Unset what is not meant, also in the service's or container's settings.",
        {"": ("unset NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_SHM_DISABLE GGML_CUDA_P2P",)},
    ),
    need=Need.SEVERAL,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",),
    look=look,
)
