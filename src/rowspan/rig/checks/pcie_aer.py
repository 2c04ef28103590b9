"""Check: the kernel's log holds no errors on the PCIe links of cards."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import Hit, LogPattern
from rowspan.rig.probe import pci
from rowspan.rig.root import Unreadable

# In the spellings of kernels since 5.15, with and without "AER:"; errors that the firmware sees first and reports (of
# these, only PCIe's have a line "device_id"); links that were taken down.
PATTERNS = (
    LogPattern("AER: ", r"(?i)AER: .*error"),
    LogPattern("PCIe Bus Error", r"PCIe Bus Error: severity="),
    LogPattern("BadTLP", r"BadTLP"),
    LogPattern("BadDLLP", r"BadDLLP"),
    LogPattern("device_id: ", r"\[Hardware Error\]:\s+device_id: "),
    LogPattern("DPC: ", r"DPC: (containment event|.*error detected|.*error containment)"),
    LogPattern("Link Down", r"pciehp: Slot\(.*\): Link Down"),
)
COUNTERS = ("aer_dev_correctable", "aer_dev_nonfatal", "aer_dev_fatal")
SWITCHED_OFF = ("pci=noaer", "pcie_ports=compat")  # options of the kernel


def look(machine: Machine) -> Outcome:
    functions = {at for card in machine.cards() for at in pci.root_path(machine.root, card.address)}
    counters, evidence = 0, []
    for path in (f"{pci.folder(at)}/{name}" for at in sorted(functions) for name in COUNTERS):
        if machine.root.has(path):
            counters += 1
            errors = re.findall(r"^(?!TOTAL)(\w+) ([1-9]\d*)$", machine.root.text(path), re.MULTILINE)
            evidence += [f"{path}: {name} {count}" for name, count in errors]
    try:
        hits = tuple(hit for hit in machine.hits(CHECK.id).latest if _concerns(hit, functions))
    except Unreadable:
        if not counters:
            raise
        hits = ()
    if evidence or hits:
        told = [f"the kernel's log since boot: {len(hits)} lines about these cards"] if hits else []
        return found(*evidence, *told, hits=hits)
    if counters:
        return passed(f"{counters} error counters on the way to the cards: all 0")
    for option in SWITCHED_OFF:
        if _has_option(machine.root.text("/proc/cmdline"), option):
            raise Unreadable(
                f"/proc/cmdline: {option}", "errors are not reported", f"Boot without {option}: it hides, not mends."
            )
    return passed("the kernel's log since boot: no such line about these cards")


def _has_option(cmdline: str, option: str) -> bool:
    """Whether an option is set, perhaps among others: pci=nommconf,noaer."""
    name, _, value = option.partition("=")
    given = (word.partition("=") for word in cmdline.split())
    return any(value in values.split(",") for word, _, values in given if word == name)


def _concerns(hit: Hit, functions: set[str]) -> bool:
    """Whether a log line is about the rig's own PCI functions: other devices' errors, such as a network card's, do not
    count.
    """
    return any(address in functions for address in hit.addresses)


CHECK = Check(
    id="pcie.aer",
    title="PCIe errors",
    reads=(
        "aer_dev_correctable, aer_dev_nonfatal and aer_dev_fatal on the way to each card",
        "journalctl -k -b, or dmesg",
        "/proc/cmdline",
    ),
    healthy="0",
    symptom="Cards vanish under load, or links are slow.",
    errors=("AER: Corrected error received", "PCIe Bus Error: severity=", "BadTLP", "pciehp: Slot(…): Link Down"),
    fix=Fix(
        "Reseat the card and take the riser out; if it must stay, set the slot to a lower PCIe generation in the "
        "firmware setup. pci=noaer hides the errors and mends nothing.",
        {"": ("sudo journalctl -k -b | grep -E 'AER: .*error|PCIe Bus Error|BadTLP|BadDLLP|section_type: PCIe'",)},
    ),
    need=Need.ANY,
    impact=Impact.SLOW,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.kernel.org/PCI/pcieaer-howto.html",),
    look=look,
    log=PATTERNS,
)
