"""Check: the IOMMU passes AMD cards' traffic through instead of translating it."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, boot_option, found, passed
from rowspan.rig.iommu import OPTION, domains


def look(machine: Machine) -> Outcome:
    types, told = domains(machine, machine.cards("AMD"))
    if any(kind != "identity" for kind in types.values()):
        return found(*told)
    return passed(*told)


CHECK = Check(
    id="amd.iommu",
    title="IOMMU passes through",
    reads=("/proc/cmdline", "iommu_group/type of each card"),
    healthy="iommu=pt; the type of each group is identity",
    symptom="RCCL warns at start; transfers between cards are slow, or hang.",
    errors=('Missing "iommu=pt" from kernel command line which can lead to system instablity or hang!',),
    fix=Fix("Boot with iommu=pt.", boot_option(OPTION)),
    need=Need.SEVERAL,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://github.com/ROCm/rccl/blob/develop/src/init.cc",),
    look=look,
)
