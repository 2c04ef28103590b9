"""Check: the kernel's log holds no errors of NVIDIA's driver (Xid)."""

from __future__ import annotations

import re
from collections import Counter

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import LogPattern

PATTERN = LogPattern("NVRM: Xid", r"NVRM: Xid \(PCI:([^)]+)\): (\d+)")
HARDWARE = {79: "the card fell off the bus: power, riser", 48: "double-bit ECC error", 119: "GSP timeout"}
APPLICATION = {31: "memory fault of an application", 43: "channel stopped for an application's fault"}


def look(machine: Machine) -> Outcome:
    machine.cards("NVIDIA")
    hits = machine.hits(CHECK.id)
    if not hits.count:
        return passed("the kernel's log since boot: no such line")
    seen = [match for hit in hits.latest if (match := re.search(PATTERN.regex, hit.message))]
    counts = Counter((match[1], int(match[2])) for match in seen)
    evidence = [f"the kernel's log since boot: {hits.count} lines; of the last {len(seen)}:"]
    for (place, code), number in counts.most_common():
        meaning = HARDWARE.get(code) or APPLICATION.get(code) or "see NVIDIA's list"
        card = machine.card_at(place.lower())
        evidence.append(f"{number} × Xid {code} ({meaning}) on {card or place}")
    only_applications = all(code in APPLICATION for _, code in counts)
    return found(*evidence, hits=tuple(hits.latest), impact=Impact.NOTE if only_applications else None)


CHECK = Check(
    id="nv.xid",
    title="Errors of NVIDIA's driver (Xid)",
    reads=("journalctl -k -b, or dmesg",),
    healthy="no such line",
    symptom="A program stops with a CUDA error, or a card is gone until the next boot.",
    errors=("NVRM: Xid (PCI:…): 79", "NVRM: Xid (PCI:…): 119"),
    fix=Fix(
        "79: check the card's power cables, the supply and the riser. 48: the card's memory is failing. 119: another "
        "driver release. 31 and 43: look at the program, not the card.",
        {"": ("sudo journalctl -k -b | grep 'NVRM: Xid'",)},
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.nvidia.com/deploy/xid-errors/",),
    look=look,
    log=(PATTERN,),
)
