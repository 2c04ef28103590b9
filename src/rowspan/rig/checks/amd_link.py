"""Check: the PCIe link between an AMD card and its slot has full width and speed, read at the card's own upstream
port.
"""

from __future__ import annotations

from rowspan.rig.check import Check, CheckState, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci

BUSY_PERCENT = 5  # below that a link may have slowed down to save power


def look(machine: Machine) -> Outcome:
    evidence, narrow, slow, asleep = [], False, False, False
    for card in machine.cards("AMD"):
        link = pci.link(machine.root, card.address)
        at = pci.folder(link.port)
        width = machine.root.number(f"{at}/current_link_width")  # both say why they cannot be read
        speed = machine.root.text(f"{at}/current_link_speed")
        narrow |= link.best_width is not None and width < link.best_width
        if link.speed is None or link.best_speed is None or link.speed < link.best_speed:
            loaded = card.busy is not None and card.busy >= BUSY_PERCENT
            slow |= loaded
            asleep |= not loaded
        best = f"card and slot could do {link.best_speed or '?'} GT/s x{link.best_width or '?'}"
        busy = f", {card.busy} % busy" if card.busy is not None else ""
        evidence.append(f"{at}: {speed}, x{width}; {best}{busy}")
    if narrow or slow:
        return found(*evidence)
    if asleep:
        words = "Idle links slow down to save power. Put load on the cards and look again: rowspan devices --sample 30"
        return Outcome(CheckState.UNKNOWN, tuple(evidence), fix=words)
    return passed(*evidence)


CHECK = Check(
    id="amd.link",
    title="PCIe link of AMD cards",
    reads=("current_link_speed and current_link_width of the card's own upstream port (1002:1478)",),
    healthy="the speed and the lanes that card and slot both have, under load",
    symptom="Slow loading, and a row split slower than a split by layer.",
    fix=Fix(
        "Reseat the card, take a riser out, and look in the board's manual which slots share lanes. The GPU's own "
        "function can claim x16 wrongly: `lspci` of the upstream port is what counts.",
        {"": ("sudo lspci -vv -d 1002:1478 | grep -E 'Upstream|LnkCap:|LnkSta:'",)},
    ),
    need=Need.SEVERAL,
    impact=Impact.SLOW,
    sureness=Sureness.MEDIUM,
    sources=("https://github.com/nokyan/resources/issues/512",),
    look=look,
)
