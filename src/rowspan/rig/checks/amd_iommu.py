"""Check: the IOMMU passes AMD cards' traffic through instead of translating it."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, boot_option, found, passed
from rowspan.rig.probe import pci

OPTION = "iommu=pt"


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD")
    options = machine.root.text("/proc/cmdline").split()
    told = f"/proc/cmdline: {OPTION} {'is set' if OPTION in options else 'is missing'}"
    groups = [f"{pci.folder(card.address)}/iommu_group" for card in cards]
    types = {f"{at}/type": machine.root.text(f"{at}/type") for at in groups if machine.root.has(at)}
    evidence = [told, *(f"{path}: {kind}" for path, kind in types.items())]
    if any(kind != "identity" for kind in types.values()):
        return found(*evidence)
    return passed(*evidence) if types else passed(told, "no card is in an IOMMU group: the IOMMU is off")


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
