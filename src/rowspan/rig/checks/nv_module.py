"""Check: which of NVIDIA's two kernel modules, open or proprietary, is loaded."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe.nvidia import VERSION
from rowspan.rig.root import Unreadable


def look(machine: Machine) -> Outcome:
    cards = machine.cards("NVIDIA")
    text = machine.root.text(VERSION)
    if not text:
        raise Unreadable(VERSION, "empty")
    line = text.splitlines()[0]
    evidence = f"{VERSION}: {line[:120]}"
    ours = {card.address for card in cards}
    refused = any(peer.direct is False for peer in machine.rig.peers if peer.source in ours)
    geforce = any("GeForce" in card.name for card in cards)
    if "Open Kernel Module" not in line and geforce and refused:
        return found(evidence, "GeForce cards without peer-to-peer; the patch for it needs the open module")
    return passed(evidence)


CHECK = Check(
    id="nv.module",
    title="Open kernel module",
    reads=(VERSION,),
    healthy="as intended; the open one where GeForce cards are to copy to each other",
    symptom="The patch for peer-to-peer between GeForce cards cannot be installed.",
    fix=Fix(
        "Install the open module of the same release.",
        {
            "debian": ("sudo apt install nvidia-open-kernel-dkms  # Ubuntu: nvidia-dkms-RELEASE-open", "sudo reboot"),
            "fedora": ("sudo dnf install akmod-nvidia-open && sudo reboot",),
            "arch": ("sudo pacman -S nvidia-open-dkms && sudo reboot",),
        },
    ),
    need=Need.PEERS,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://github.com/NVIDIA/open-gpu-kernel-modules",),
    look=look,
)
