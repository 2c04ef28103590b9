"""Check: copies that the driver allows between NVIDIA cards also arrive as they were sent."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Unreadable

TRY = "rowspan doctor --probe copies between the cards and compares."


def look(machine: Machine) -> Outcome:
    ours = {card.address for card in machine.cards("NVIDIA", least=2)}
    if not any(peer.direct for peer in machine.rig.peers if peer.source in ours):
        if any(peer.direct is None for peer in machine.rig.peers if peer.source in ours):
            raise Unreadable("copies between cards", "it is not known whether the driver allows them")
        raise DoesNotApply("the driver allows no copies between these cards")
    if machine.copies is None:
        raise Unreadable("copies between cards", "not tried", TRY)
    copies = machine.copies()
    evidence = [f"copy {pair}: {'as sent' if same else 'differs from what was sent'}" for pair, same in copies.items()]
    return passed(*evidence) if all(copies.values()) else found(*evidence)


CHECK = Check(
    id="nv.p2p.lie",
    title="Peer-to-peer copies arrive whole",
    reads=("a copy between every two cards, compared with what was sent (only with --probe)",),
    healthy="equal",
    symptom="Garbled output from several cards, and good output from one.",
    fix=Fix("Switch peer-to-peer off until the driver is mended.", {"": ("export NCCL_P2P_DISABLE=1",)}),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://github.com/NVIDIA/open-gpu-kernel-modules/issues/1257",),
    look=look,
)
