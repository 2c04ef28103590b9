"""How the IOMMU treats cards: what the checks for AMD's and for NVIDIA's cards share."""

from __future__ import annotations

from collections.abc import Sequence

from rowspan.rig.check import Machine
from rowspan.rig.probe import pci
from rowspan.rig.probe.cards import Card

OPTION = "iommu=pt"


def domains(machine: Machine, cards: Sequence[Card]) -> tuple[dict[str, str], list[str]]:
    """The type of each card's IOMMU group by its path, none where the IOMMU is off; and sentences about it. Raises
    Unreadable.
    """
    options = machine.root.text("/proc/cmdline").split()
    told = [f"/proc/cmdline: {OPTION} {'is set' if OPTION in options else 'is missing'}"]
    groups = [f"{pci.folder(card.address)}/iommu_group" for card in cards]
    types = {f"{at}/type": machine.root.text(f"{at}/type") for at in groups if machine.root.has(at)}
    told += [f"{path}: {kind}" for path, kind in types.items()]
    return types, told if types else [*told, "no card is in an IOMMU group: the IOMMU is off"]
