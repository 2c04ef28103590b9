"""Check: the scheduler firmware of RDNA 4 cards is recent enough."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import kfd, pci

LEAST = 0x8B
VERSION_BITS = 0xFFF  # AMDGPU_MES_VERSION_MASK: the rest says which interface it speaks


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD")
    if any(card.arch is None for card in cards):
        kfd.gpu_nodes(machine.root)  # says why the architecture cannot be told
    cards = tuple(card for card in cards if card.arch and card.arch.startswith("gfx12"))
    if not cards:
        raise DoesNotApply("no RDNA 4 card (gfx12)")
    evidence, old = [], False
    for card in cards:
        for name in ("mes", "mes_kiq"):
            path = f"{pci.folder(card.address)}/fw_version/{name}_fw_version"
            version = machine.root.number(path) & VERSION_BITS
            old |= version < LEAST
            evidence.append(f"{path}: {version:#x}")
    return found(*evidence) if old else passed(*evidence)


CHECK = Check(
    id="amd.fw",
    title="Scheduler firmware of RDNA 4",
    reads=("fw_version/mes_fw_version and mes_kiq_fw_version of each card",),
    healthy=f"{LEAST:#x} or newer",
    symptom="Cards stay busy, and take some 100 W more, with a model merely loaded.",
    fix=Fix(
        "Install a newer linux-firmware.",
        {
            "debian": ("sudo apt update && sudo apt full-upgrade && sudo reboot",),
            "fedora": ("sudo dnf upgrade linux-firmware amd-gpu-firmware && sudo reboot",),
            "arch": ("sudo pacman -Syu linux-firmware && sudo reboot",),
        },
    ),
    need=Need.ANY,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://docs.kernel.org/gpu/amdgpu/driver-misc.html",),
    look=look,
)
