"""Check: the driver allows copies between NVIDIA cards."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, boot_option, found, passed
from rowspan.rig.probe import nvml
from rowspan.rig.root import Unreadable

LETTERS = {
    "CNS": "not supported by the chipset",
    "GNS": "not supported by the card",
    "TNS": "not supported in this topology",
    "DR": "disabled by a setting of the driver",
    "NS": "not supported",
}


def look(machine: Machine) -> Outcome:
    ours = {card.address for card in machine.cards("NVIDIA", least=2)}
    pairs = [peer for peer in machine.rig.peers if peer.source in ours]
    if any(peer.direct is None for peer in pairs):
        nvml.ask(machine.root)  # says why it does not answer
        raise Unreadable(nvml.ASK, "it does not tell the status of every pair")
    evidence = [
        f"{peer.source} → {peer.target}: {peer.how}{'' if peer.direct else ', ' + LETTERS.get(peer.how, 'refused')}"
        for peer in pairs
    ]
    return passed(*evidence) if all(peer.direct for peer in pairs) else found(*evidence)


CHECK = Check(
    id="nv.p2p",
    title="Peer-to-peer copies between NVIDIA cards",
    reads=("NVML: nvmlDeviceGetP2PStatus, which `nvidia-smi topo -p2p r` prints",),
    healthy="OK for every pair",
    symptom="Every transfer of a row split goes through the host's memory: slow prompts.",
    fix=Fix(
        "GeForce cards need a patched open kernel module, Resizable BAR and iommu=pt. Without them the host's memory "
        "is the way, which works, slower; or split by layer.",
        {"": ("nvidia-smi topo -p2p r", "nvidia-smi topo -m"), **boot_option("iommu=pt")},
    ),
    need=Need.PEERS,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=(
        "https://docs.nvidia.com/deploy/nvml-api/",
        "https://github.com/tinygrad/open-gpu-kernel-modules",
    ),
    look=look,
)
