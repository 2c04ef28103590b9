"""Check: the kernel's log shows no hangs of AMD cards, nor the faults and resets that go with them."""

from __future__ import annotations

from collections import Counter

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.kernel_log import Hit, LogPattern

# Cards with scheduler firmware (RDNA 3 and 4) and those before it, which the driver schedules (CDNA, RDNA 1 and 2).
HANGS = (
    LogPattern("failed to respon", r"MES(\(\d+\))? failed to respon(d|se)( to)? msg="),
    LogPattern("failed to remove hardware queue from MES", r"failed to remove hardware queue from MES"),
    LogPattern("MES might be in unrecoverable state", r"MES might be in unrecoverable state"),
    LogPattern("ring buffer is full", r"MES(\(\d+\))? ring buffer is full"),
    LogPattern("failed to reg_write_reg_wait", r"failed to reg_write_reg_wait"),
    LogPattern("fence wait loop timeout expired", r"fence wait loop timeout expired"),
    LogPattern("might be in an unrecoverable state", r"(cp|HWS) might be in an unrecoverable state"),
    LogPattern("reemption time out", r"[Pp]reemption time out"),
    LogPattern("Failed to evict ", r"Failed to evict (process )?queue"),
    LogPattern("HWS hang", r"HWS hang"),
    LogPattern(" timeout", r"amdgpu.*ring \S+ timeout"),
    LogPattern("not done with your previous command", r"SMU: I'm not done with your previous command"),
)
FAULTS = (
    LogPattern("VM_L2_PROTECTION_FAULT_STATUS", r"VM_L2_PROTECTION_FAULT_STATUS"),
    LogPattern("page fault", r"amdgpu.*\[(gfxhub|mmhub)\d*\].*page fault"),
)
RESETS = (LogPattern("GPU reset begin", r"amdgpu.*GPU reset begin"),)
RESET_ALONE = (
    "If somebody reset it (amd-smi reset, a driver that was loaded again), nothing is wrong. Otherwise look in the "
    "log at the lines before it."
)
FAULT_ALONE = (
    "A program read or wrote memory that it had not asked for: look at the program, or its ROCm libraries, before the "
    "card. It ends with an error; the card goes on."
)


def look(machine: Machine) -> Outcome:
    machine.cards("AMD")
    hits = machine.hits(CHECK.id)
    if not hits.count:
        return passed("the kernel's log since boot: no such line")
    latest = hits.latest
    cards = Counter(hit.addresses[0] if hit.addresses else "a card it does not name" for hit in latest)
    shares = ", ".join(f"{number} of {card}" for card, number in cards.most_common())
    evidence = f"the kernel's log since boot: {hits.count} lines; of the last {len(latest)}: {shares}"
    if _any(HANGS, latest):
        return found(evidence, hits=tuple(latest))
    if _any(FAULTS, latest):
        return found(evidence, hits=tuple(latest), title="Memory faults on AMD cards", fix=FAULT_ALONE)
    return found(evidence, hits=tuple(latest), title="Resets of AMD cards", fix=RESET_ALONE, impact=Impact.NOTE)


def _any(patterns: tuple[LogPattern, ...], hits: list[Hit]) -> bool:
    return any(pattern.fits(hit.message) for pattern in patterns for hit in hits)


CHECK = Check(
    id="amd.mes",
    title="Hangs of AMD cards (scheduler firmware, queues)",
    reads=("journalctl -k -b, or dmesg",),
    healthy="no such line",
    symptom="A program freezes or is killed, the card is reset, and a desktop on it goes along.",
    errors=(
        "MES failed to respond to msg=",
        "failed to remove hardware queue from MES",
        "MES might be in unrecoverable state, issue a GPU reset",
        "qcm fence wait loop timeout expired",
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
        "https://github.com/ROCm/legacy-rocm-build/issues/6630",
        "https://github.com/ROCm/legacy-rocm-build/issues/782",
    ),
    look=look,
    log=(*HANGS, *FAULTS, *RESETS),
)
