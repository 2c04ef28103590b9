"""Check: AMD cards have a resizable BAR, so that the processor and other cards can address all of a card's memory."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci

MEBI = 1 << 20


def look(machine: Machine) -> Outcome:
    evidence, small = [], False
    for card in machine.cards("AMD"):
        at = pci.folder(card.address)
        total = machine.root.number(f"{at}/mem_info_vram_total")
        visible = machine.root.number(f"{at}/mem_info_vis_vram_total")
        small |= visible < total
        evidence.append(f"{at}/mem_info_vis_vram_total: {visible // MEBI} of {total // MEBI} MiB")
    return found(*evidence) if small else passed(*evidence)


CHECK = Check(
    id="amd.rebar",
    title="Resizable BAR",
    reads=("mem_info_vis_vram_total and mem_info_vram_total of each card",),
    healthy="all of a card's memory is visible: both numbers are equal",
    symptom="The driver refuses to link cards, so that there is no peer-to-peer; loading is slow.",
    fix=Fix("In the firmware setup (BIOS), switch on Above 4G Decoding and Resizable BAR, and boot by UEFI, not CSM."),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.kernel.org/gpu/amdgpu/driver-misc.html",),
    look=look,
)
