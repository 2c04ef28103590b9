"""Check: AMD's separately built driver (DKMS) can copy between cards, which some of its releases leave out."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed

VERSION = "/sys/module/amdgpu/version"
WITHOUT_P2P = ("6.14.14", "6.16.13")  # releases seen without; others of their time may lack it, too


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD", least=2)
    if machine.root.has("/sys/module/amdgpu") and not machine.root.has(VERSION):
        raise DoesNotApply("amdgpu is the kernel's own, no DKMS build")
    version = machine.root.text(VERSION)
    ours = {card.address for card in cards}
    links = [peer.direct for peer in machine.rig.peers if peer.source in ours and peer.target in ours]
    evidence = f"{VERSION}: {version}"
    if all(links):
        return passed(evidence, "all cards are linked")
    if version.startswith(WITHOUT_P2P):
        return found(evidence, "this release is known to be built without peer-to-peer copies")
    return passed(evidence, "not one of the releases known to lack peer-to-peer copies")


CHECK = Check(
    id="amd.dkms.p2p",
    title="DKMS build of amdgpu",
    reads=(VERSION, "/sys/class/kfd/kfd/topology/nodes/*/p2p_links"),
    healthy="no DKMS build, or one that was built with peer-to-peer copies",
    symptom="No links between cards, although the kernel's own options are all set.",
    fix=Fix(
        "The module's configure script tests a misspelled option, CONFIG_DMABUF_MOVENOTIFY, and leaves peer-to-peer "
        "copies out. Use the kernel's own amdgpu, or another release of the DKMS module.",
        {
            "debian": ("sudo apt remove amdgpu-dkms && sudo reboot",),
            "fedora": ("sudo dnf remove amdgpu-dkms && sudo reboot",),
            "arch": ("dkms status amdgpu  # then remove the package that installed it, and reboot",),
        },
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=("https://github.com/ROCm/amdgpu/issues/210",),
    look=look,
)
