"""Check: the kernel's log shows no hangs of AMD's scheduler firmware (MES), nor the resets that follow them."""

from __future__ import annotations

from collections import Counter

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import LogPattern

PATTERNS = (
    LogPattern("MES failed to respon", r"MES failed to respon(d|se)( to)? msg="),
    LogPattern("failed to remove hardware queue from MES", r"failed to remove hardware queue from MES"),
    LogPattern("MES might be in unrecoverable state", r"MES might be in unrecoverable state"),
    LogPattern("MES ring buffer is full", r"MES ring buffer is full"),
    LogPattern("failed to reg_write_reg_wait", r"failed to reg_write_reg_wait"),
    LogPattern(" timeout", r"amdgpu.*ring \S+ timeout"),
    LogPattern("GPU reset begin", r"amdgpu.*GPU reset begin"),
    LogPattern("Failed to evict queue", r"Failed to evict queue"),
    LogPattern("GCVM_L2_PROTECTION_FAULT_STATUS", r"GCVM_L2_PROTECTION_FAULT_STATUS"),
    LogPattern("not done with your previous command", r"SMU: I'm not done with your previous command"),
)


def look(machine: Machine) -> Outcome:
    machine.cards("AMD")
    hits = machine.hits(CHECK.id)
    if not hits.count:
        return passed("the kernel's log since boot: no such line")
    cards = Counter(hit.addresses[0] if hit.addresses else "a card it does not name" for hit in hits.latest)
    shares = ", ".join(f"{number} of {card}" for card, number in cards.most_common())
    return found(
        f"the kernel's log since boot: {hits.count} lines; of the last {len(hits.latest)}: {shares}",
        hits=tuple(hits.latest),
    )


CHECK = Check(
    id="amd.mes",
    title="Hangs of the scheduler firmware (MES)",
    reads=("journalctl -k -b, or dmesg",),
    healthy="no such line",
    symptom="A program freezes or is killed, the card is reset, and a desktop on it goes along.",
    errors=(
        "MES failed to respond to msg=",
        "failed to remove hardware queue from MES",
        "MES might be in unrecoverable state, issue a GPU reset",
        "GPU reset begin!",
    ),
    fix=Fix(
        "Use the newest kernel and linux-firmware, or the kernel that ROCm supports with its DKMS module. Draw no "
        "desktop with a card that computes.",
        {
            "debian": ("sudo apt update && sudo apt full-upgrade && sudo reboot",),
            "fedora": ("sudo dnf upgrade kernel linux-firmware && sudo reboot",),
            "arch": ("sudo pacman -Syu linux linux-firmware && sudo reboot",),
        },
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=(
        "https://github.com/ROCm/legacy-rocm-build/issues/5724",
        "https://github.com/ROCm/legacy-rocm-build/issues/6273",
    ),
    look=look,
    log=PATTERNS,
)
