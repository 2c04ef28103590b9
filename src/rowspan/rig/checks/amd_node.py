"""Check: the compute driver manages every AMD card that is plugged in."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import LogPattern
from rowspan.rig.probe import kfd, pci
from rowspan.rig.root import Unreadable

SKIPPED = LogPattern("skipped device", r"kfd.*skipped device ([0-9a-f]+):([0-9a-f]+)")


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD")
    managed = {node.address for node in kfd.gpu_nodes(machine.root)}
    missing = [card for card in cards if card.address not in managed]
    if not missing:
        return passed(f"{kfd.NODES}: a node for each of {len(cards)} cards")
    evidence = []
    for card in missing:
        try:
            slot = f" (slot path {' → '.join(pci.root_path(machine.root, card.address))}, {card.lanes} lanes)"
        except Unreadable:
            slot = ""
        evidence.append(f"{card}: plugged in, but {kfd.NODES} has no node for it{slot}")
    try:
        hits = tuple(machine.hits(CHECK.id).latest)
    except Unreadable as error:
        hits = ()
        evidence.append(f"why is not known: {error}")
    if any("atomics" in hit.message for hit in hits):
        evidence.append("the kernel's log: the slot does not pass PCIe atomics on, which this card needs")
    return found(*evidence, hits=tuple(hit for hit in hits if re.search(SKIPPED.regex, hit.message)))


CHECK = Check(
    id="amd.node",
    title="AMD cards that the compute driver leaves out",
    reads=("/sys/bus/pci/devices", f"{kfd.NODES}/*/properties", "journalctl -k -b, or dmesg"),
    healthy="a node for each card",
    symptom="rocminfo and every program that computes see fewer cards than lspci.",
    errors=("kfd kfd: amdgpu: skipped device 1002:73bf, PCI rejects atomics",),
    fix=Fix(
        "PCI rejects atomics: move the card to a slot of the processor; those of the chipset, risers with a switch and "
        "some boards do not pass them on. Otherwise look in the log for what amdgpu says of the card.",
        {"": ("sudo journalctl -k -b | grep -iE 'kfd|amdgpu.*(skipped|atomics|fatal)'",)},
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=(
        "https://github.com/ROCm/legacy-rocm-build/issues/1214",
        "https://github.com/ROCm/legacy-rocm-build/issues/910",
    ),
    look=look,
    log=(SKIPPED,),
)
