"""Check: the cards' slots are alike, and hang on the processor's own lanes."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci
from rowspan.rig.probe.pci import Lanes
from rowspan.rig.root import Unreadable


def look(machine: Machine) -> Outcome:
    evidence, widths, lanes = [], [], []
    for card in machine.cards(least=2):
        link = pci.link(machine.root, card.address)
        where = pci.lanes(machine.root, card.address)
        path = " → ".join(pci.root_path(machine.root, card.address))
        if link.width is None or where is Lanes.UNKNOWN:
            raise Unreadable(pci.folder(card.address), f"the slot cannot be told (path {path})")
        widths.append(link.width)
        lanes.append(where)
        evidence.append(f"{card}: x{link.width}, {where} lanes, path {path}")
    bad = len(set(widths)) > 1 or Lanes.CHIPSET in lanes
    return found(*evidence) if bad else passed(*evidence)


CHECK = Check(
    id="pcie.slot",
    title="Equal slots on the processor's lanes",
    reads=("the way from the root port to each card", "current_link_width of each card's upstream port"),
    healthy="equal widths, no card behind the chipset",
    symptom="Row split is as slow as its slowest slot, or breaks where a card is behind the chipset.",
    fix=Fix(
        "Move the card to a slot of the processor, as the board's manual shows; or give it less, or split by layer."
    ),
    need=Need.PEERS,
    impact=Impact.SLOW,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.kernel.org/PCI/sysfs-pci.html",),
    look=look,
)
