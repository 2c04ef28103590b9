"""Check: the IOMMU does not translate what NVIDIA cards send to each other."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, boot_option, found, passed
from rowspan.rig.iommu import domains


def look(machine: Machine) -> Outcome:
    types, told = domains(machine, machine.cards("NVIDIA", least=2))
    if any(kind != "identity" for kind in types.values()):
        return found(*told)
    return passed(*told)


CHECK = Check(
    id="nv.iommu",
    title="IOMMU translates between NVIDIA cards",
    reads=("/proc/cmdline", "iommu_group/type of each card"),
    healthy="iommu=pt; the type of each group is identity, or the IOMMU is off",
    symptom="NCCL hangs at the first collective of a row split, or copies between cards are slow or corrupted.",
    fix=Fix("Boot with iommu=pt, or switch the IOMMU off in the firmware setup.", boot_option("iommu=pt")),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=(
        "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html",
        "https://github.com/vllm-project/vllm/issues/33041",
        "https://github.com/NVIDIA/nccl/issues/257",
    ),
    look=look,
)
