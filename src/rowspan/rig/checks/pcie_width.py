"""Check: each card's link has the lanes that card and slot both have, and the slot has enough of them."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci
from rowspan.rig.root import Unreadable

ENOUGH = 8  # lanes; half of a card's 16 hardly show, a quarter does, in loading and in a split by row
NARROW_SLOT = (
    "The slot has no more lanes. It costs time when models are loaded, and at every layer of a split by row: take a "
    "wider slot, or split by layer."
)


def look(machine: Machine) -> Outcome:
    """Speed may fall while a card is idle; width never does."""
    cards = [card for card in machine.cards() if card.vendor != "AMD"]  # theirs are read at a port of their own
    if not cards:
        raise DoesNotApply("AMD cards only, for which amd.link looks")
    evidence, lost, narrow = [], False, False
    for card in cards:
        link = pci.link(machine.root, card.address)
        if link.width is None or link.max_width is None:
            raise Unreadable(f"{pci.folder(card.address)}/current_link_width", "the width is not told")
        evidence.append(f"{card}: x{link.width}; the card has x{link.max_width}, the slot x{link.slot_width or '?'}")
        lost |= link.best_width is not None and link.width < link.best_width
        narrow |= link.width < min(ENOUGH, link.max_width)
    if lost:
        return found(*evidence)
    if narrow:
        return found(*evidence, title="A slot of few PCIe lanes", fix=NARROW_SLOT)
    return passed(*evidence)


CHECK = Check(
    id="pcie.width",
    title="PCIe lanes that are lost",
    reads=("current_link_width and max_link_width of each card and its slot",),
    healthy="all the lanes that card and slot both have, idle or not",
    symptom="Slow loading, and a row split slower than a split by layer.",
    fix=Fix(
        "Reseat the card, take a riser out, and look in the board's manual which slots share lanes.",
        {"": ("sudo lspci -vv | grep -E '^[0-9a-f].*(VGA|3D|Display)|LnkCap:|LnkSta:'",)},
    ),
    need=Need.SEVERAL,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://docs.kernel.org/PCI/sysfs-pci.html", "https://github.com/turboderp-org/exllamav2/issues/734"),
    look=look,
)
