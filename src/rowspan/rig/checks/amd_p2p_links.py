"""Check: the driver lists AMD cards as reaching each other's memory. This list decides, whatever the options say."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import kfd
from rowspan.rig.root import Unreadable


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD", least=2)
    kfd.gpu_nodes(machine.root)  # says why, where it cannot be read
    ours = {card.address for card in cards}
    pairs = [peer for peer in machine.rig.peers if peer.source in ours and peer.target in ours]
    if any(peer.direct is None for peer in pairs):
        raise Unreadable(kfd.NODES, "links between cards cannot be told")
    lacking = [f"{peer.source} → {peer.target}" for peer in pairs if not peer.direct]
    where = f"{kfd.NODES}/*/p2p_links"
    if lacking:
        return found(f"{where}: {len(pairs) - len(lacking)} of {len(pairs)} links; none for {', '.join(lacking)}")
    return passed(f"{where}: all {len(pairs)} links ({', '.join(sorted({peer.how for peer in pairs}))})")


CHECK = Check(
    id="amd.p2p.links",
    title="Peer-to-peer links between AMD cards",
    reads=("/sys/class/kfd/kfd/topology/nodes/*/p2p_links/*/properties",),
    healthy="one link for every pair of cards, in both directions",
    symptom="Row split crashes or gives garbled output, or every transfer goes through the host's memory.",
    errors=("Segmentation fault in hipMemcpy2DAsync, called by ggml_cuda_Memcpy2DPeerAsync",),
    fix=Fix(
        "Look at the findings about kernel options, pcie_p2p, the DKMS module and Resizable BAR; each can be the "
        "cause. Until then split by layer, which hardly needs these links.",
        {"": ("rowspan serve MODEL -sm layer",)},
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=(
        "https://github.com/torvalds/linux/blob/master/drivers/gpu/drm/amd/amdkfd/kfd_topology.c",
        "https://github.com/ggml-org/llama.cpp/issues/9761",
    ),
    look=look,
)
