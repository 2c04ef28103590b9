"""Check: no bridge above the cards has access control (ACS) on, which sends traffic between cards up to the
processor.
"""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci
from rowspan.rig.root import NotPermitted, as_root

# PCI Express Base Specification: extended capabilities begin at 0x100; ACS has id 13, its control register is at +6.
EXTENDED, ACS_ID, CONTROL, SOURCE_VALIDATION = 0x100, 0x000D, 6, 1


def look(machine: Machine) -> Outcome:
    bridges = {bridge for card in machine.cards(least=2) for bridge in pci.bridges(machine.root, card.address)}
    enabled = {}
    for bridge in sorted(bridges):
        path = f"{pci.folder(bridge)}/config"
        space = machine.root.raw(path)
        if len(space) < EXTENDED:  # all that others than root get to read is 64 bytes
            raise NotPermitted(path, f"Run it as root: {as_root('doctor')}")
        enabled[bridge] = _control(space) & SOURCE_VALIDATION
    evidence = [f"{pci.folder(at)}/config: ACSCtl SrcValid{'+' if on else '-'}" for at, on in enabled.items()]
    if any(enabled.values()):
        commands = (f"sudo setpci -s {at} ECAP_ACS+6.w=0000" for at, on in enabled.items() if on)
        return found(*evidence, commands=tuple(commands))
    return passed(*(evidence or ["no bridge above the cards"]))


def _control(space: bytes) -> int:
    """The value of the ACS control register in a device's PCI configuration space; 0 if it has none."""
    at, steps = EXTENDED, 0
    while at >= EXTENDED and at + 8 <= len(space) and steps < len(space) // 8:
        header = int.from_bytes(space[at : at + 4], "little")
        if header & 0xFFFF == ACS_ID:
            return int.from_bytes(space[at + CONTROL : at + CONTROL + 2], "little")
        at, steps = header >> 20, steps + 1
    return 0


CHECK = Check(
    id="pcie.acs",
    title="No access control (ACS) between cards",
    reads=("config of each bridge above a card, as `lspci -vvv` shows it (root)",),
    healthy="ACSCtl: SrcValid-",
    symptom="Copies between cards go up to the processor and back: slow, or they seem to hang.",
    fix=Fix(
        "Switch ACS off in the firmware setup, or at every boot on these bridges. It then protects no virtual machine.",
        {"": ("sudo setpci -s BRIDGE ECAP_ACS+6.w=0000",)},
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html",),
    look=look,
)
