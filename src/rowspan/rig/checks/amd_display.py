"""Check: no screen hangs on a card that computes."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci
from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Missing


def look(machine: Machine) -> Outcome:
    evidence, connected = [], False
    reader = Reader(machine.root)
    for card in machine.cards("AMD"):
        at = f"{pci.folder(card.address)}/drm"
        if card.displays is None:
            raise Missing(at)
        connected |= bool(card.displays)
        primary = reader.number(f"{pci.folder(card.address)}/boot_vga")
        role = {1: "; the machine's first display", 0: ""}.get(primary if primary is not None else -1, "")
        evidence.append(f"{at}: connected: {', '.join(card.displays) or 'none'}{role}")
    return found(*evidence) if connected else passed(*evidence)


CHECK = Check(
    id="amd.display",
    title="No desktop on a card that computes",
    reads=("drm/cardN-*/status and boot_vga of each card",),
    healthy="no screen is connected to a card that computes",
    symptom="A reset of the card takes the desktop along; the desktop takes memory and time from the model.",
    fix=Fix(
        "Connect the screen to the processor's graphics or to another card, and make that the first display in the "
        "setup."
    ),
    need=Need.ANY,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.kernel.org/gpu/drm-kms.html",),
    look=look,
)
