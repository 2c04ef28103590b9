"""Reads NVIDIA's cards: through the driver's management library (NVML), or without it from /proc and sysfs."""

from __future__ import annotations

import re
from itertools import permutations

from rowspan.rig.probe import pci, pci_names
from rowspan.rig.probe.amd import render_node
from rowspan.rig.probe.cards import Card, Peer
from rowspan.rig.probe.nvml import Nvml, NvmlCard
from rowspan.rig.probe.reader import Reader

VERSION = "/proc/driver/nvidia/version"
CARDS = "/proc/driver/nvidia/gpus"


def probe_card(reader: Reader, address: str, nvml: Nvml | None) -> Card:
    """Read one card. Raises Unreadable if sysfs does not show the card's device folder."""
    root = reader.root
    known = next((card for card in nvml.cards if card.address == address), None) if nvml else None
    card = known or NvmlCard(address, _name(reader, address))
    total, used = card.memory_total, card.memory_used
    return Card(
        address,
        "NVIDIA",
        card.name,
        f"sm_{card.compute.replace('.', '')}" if card.compute else None,
        memory_total=total,
        memory_free=None if total is None or used is None else total - used,
        memory_visible=card.bar1_total,
        driver=driver(reader),
        firmware=(("vbios", card.vbios),) if card.vbios else (),
        link=pci.link(root, address),
        lanes=pci.lanes(root, address),
        numa_node=reader.number(f"{pci.folder(address)}/numa_node"),
        displays=None if card.display is None else ("active",) if card.display else (),
        busy=card.busy,
        watts=card.watts,
        watts_limit=card.watts_limit,
        celsius=card.celsius,
        render_node=render_node(root, address),
    )


def driver(reader: Reader) -> str | None:
    """The driver's version, and whether its kernel module is the open one."""
    text = reader.text(VERSION)
    match = re.search(r"Module.*?\s(\d+\.[\d.]+)", text) if text else None
    return f"nvidia {match[1]} ({'open' if 'Open Kernel' in text else 'proprietary'})" if match and text else None


def peers(nvml: Nvml | None, addresses: list[str]) -> list[Peer]:
    """Every ordered pair of these cards; `direct` is None without NVML."""
    known = {(peer.source, peer.target): peer for peer in nvml.peers} if nvml else {}
    found = []
    for pair in permutations(addresses, 2):
        peer = known.get(pair)
        if peer is None or "U" in (peer.read, peer.write):
            found.append(Peer(*pair, None))
        elif peer.nvlink == "OK":
            found.append(Peer(*pair, True, "NVLink"))
        else:
            refused = next((status for status in (peer.read, peer.write) if status != "OK"), None)
            found.append(Peer(*pair, refused is None, refused or "PCIe"))
    return found


def _name(reader: Reader, address: str) -> str:
    told = re.search(r"^Model:\s*(.+)$", reader.text(f"{CARDS}/{address}/information") or "", re.MULTILINE)
    if told:
        return told[1].strip()
    device = reader.number(f"{pci.folder(address)}/device") or 0
    return f"NVIDIA {pci_names.device_name(reader.root, pci.NVIDIA, device) or 'card'} [10de:{device:04x}]"
