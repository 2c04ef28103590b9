"""Check: the kernel's log holds no errors of NVIDIA's driver (Xid)."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import LogPattern

# With an address, "(PCI:0000:41:00)", in old drivers "(0000:41:00)"; some lines, such as those of 154, have none.
PATTERN = LogPattern("NVRM: Xid", r"NVRM: Xid(?: \((?:PCI:)?([^)]+)\))?: (\d+)(?:, )?(.*)")

PROGRAM, CARD, LINK, DRIVER, RESET = "a program's fault", "the card", "NVLink", "driver or firmware", "reset needed"


class Meaning(NamedTuple):
    """Where an error comes from, and what it is, by NVIDIA's catalog of Xids."""

    kind: str
    what: str


MEANINGS = {
    13: Meaning(PROGRAM, "an exception in a program's kernel"),
    31: Meaning(PROGRAM, "a program touched memory that it does not have"),
    43: Meaning(PROGRAM, "a channel stopped after a program's fault"),
    45: Meaning(PROGRAM, "a program's work was cleared away, after another error or because it was ended"),
    32: Meaning(DRIVER, "a damaged stream of commands: driver, or the PCIe link"),
    38: Meaning(DRIVER, "the driver's firmware failed"),
    48: Meaning(CARD, "two bits of its memory flipped: uncorrectable"),
    61: Meaning(CARD, "its internal controller stopped"),
    62: Meaning(CARD, "its internal controller halted: reset it"),
    63: Meaning(CARD, "a row of its memory is retired at the next reset"),
    64: Meaning(CARD, "a row of its memory could not be retired"),
    74: Meaning(LINK, "an error on NVLink: bridge or seat"),
    79: Meaning(CARD, "it fell off the bus: power, riser, heat"),
    92: Meaning(CARD, "many single bits of its memory flip"),
    94: Meaning(CARD, "uncorrectable memory error, contained in one program"),
    95: Meaning(CARD, "uncorrectable memory error, not contained: reset it"),
    109: Meaning(DRIVER, "a context did not give way in time"),
    110: Meaning(CARD, "a security fault: reset it"),
    119: Meaning(DRIVER, "GSP, the card's own firmware, did not answer in time"),
    120: Meaning(DRIVER, "GSP, the card's own firmware, failed"),
    121: Meaning(LINK, "an error on the link between chips, corrected"),
    140: Meaning(CARD, "an uncorrectable memory error was found"),
    143: Meaning(CARD, "it could not be initialized"),
    154: Meaning(RESET, "recovery action"),
    **{code: Meaning(LINK, "an error on NVLink 5: bridge, switch or seat") for code in range(144, 151)},
}
UNKNOWN = Meaning("see NVIDIA's catalog", "not listed here")
ADVICE = {
    PROGRAM: "Look at the program, not the card; it is ended with an error, and the card goes on.",
    CARD: "Check its power cables, the supply, its temperature and the riser; if memory errors come back, replace it.",
    LINK: "Reseat the NVLink bridge; `nvidia-smi nvlink -e` counts errors.",
    DRIVER: "Install another release of the driver; if it stays, try the card in another slot.",
    RESET: "Do what the line asks for: nvidia-smi --gpu-reset -i N with no program on the card, or reboot.",
}


def look(machine: Machine) -> Outcome:
    machine.cards("NVIDIA")
    hits = machine.hits(CHECK.id)
    if not hits.count:
        return passed("the kernel's log since boot: no such line")
    seen = [match for hit in hits.latest if (match := re.search(PATTERN.regex, hit.message))]
    counts = Counter((match[1] or "", int(match[2])) for match in seen)
    details = {(match[1] or "", int(match[2])): match[3] for match in seen}
    evidence = [f"the kernel's log since boot: {hits.count} lines; of the last {len(seen)}:"]
    for (place, code), number in counts.most_common():
        kind, what = MEANINGS.get(code, UNKNOWN)
        card = machine.card_at(place.lower()) if place else None
        asked = re.search(r"\(([^)]+)\)", details[place, code]) if kind == RESET else None
        told = f": {asked[1]}" if asked else ""
        evidence.append(f"{number} × Xid {code} ({kind}: {what}{told}) on {card or place or 'a card it does not name'}")
    kinds = {MEANINGS.get(code, UNKNOWN).kind for _, code in counts}
    return found(
        *evidence,
        hits=tuple(hits.latest),
        impact=Impact.NOTE if kinds == {PROGRAM} else None,
        fix=" ".join(f"{kind[0].upper()}{kind[1:]}: {text}" for kind, text in ADVICE.items() if kind in kinds),
    )


CHECK = Check(
    id="nv.xid",
    title="Errors of NVIDIA's driver (Xid)",
    reads=("journalctl -k -b, or dmesg",),
    healthy="no such line",
    symptom="A program stops with a CUDA error, or a card is gone until the next boot.",
    errors=("NVRM: Xid (PCI:…): 79", "NVRM: Xid (PCI:…): 119", "NVRM: Xid: 154, GPU recovery action changed"),
    fix=Fix("Look the number up in NVIDIA's catalog.", {"": ("sudo journalctl -k -b | grep 'NVRM: Xid'",)}),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.nvidia.com/deploy/xid-errors/",),
    look=look,
    log=(PATTERN,),
)
