"""Looks at the whole machine once. It needs no root user: what this user may not read is None, and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.rig.probe import amd, kfd, nvidia, nvml, pci, pci_names
from rowspan.rig.probe.cards import Card, Peer
from rowspan.rig.probe.cpu import Cpu, Memory, probe_cpu, probe_memory
from rowspan.rig.probe.reader import Reader
from rowspan.rig.probe.system import System, probe_system
from rowspan.rig.root import Root, Unreadable

DISPLAY_CLASSES = range(0x0300, 0x0400)
ACCELERATOR_CLASS = 0x1200
VENDORS: Mapping[int, str] = {pci.AMD: "AMD", pci.NVIDIA: "NVIDIA", pci.INTEL: "Intel"}
INTEL_INTEGRATED = "0000:00:02.0"


@dataclass(frozen=True)
class Rig:
    """A machine's system, processor, memory and cards.

    cards: in the order of their PCI addresses.
    peers: every ordered pair of cards that have the same vendor.
    unread: sources that could not be read, and why; values that depend on them are unknown.
    """

    system: System
    cpu: Cpu
    memory: Memory
    cards: tuple[Card, ...]
    peers: tuple[Peer, ...]
    unread: tuple[str, ...]

    def of(self, vendor: str) -> tuple[Card, ...]:
        """A vendor's cards that are not part of the processor."""
        return tuple(card for card in self.cards if card.vendor == vendor and not card.integrated)

    @property
    def compute_cards(self) -> tuple[Card, ...]:
        return tuple(card for card in self.cards if not card.integrated)


def probe(root: Root) -> Rig:
    """Look at everything once. Never fails: see `Rig.unread`."""
    reader = Reader(root)
    unread: list[str] = []
    cards, peers = _cards(reader, unread)
    rig = (probe_system(reader), probe_cpu(root), probe_memory(root), tuple(cards), tuple(peers))
    return Rig(*rig, (*unread, *(f"{path}: not permitted" for path in reader.denied)))


def probe_cards(root: Root | None = None) -> list[Card]:
    """Read the cards alone."""
    return _cards(Reader(root or Root()), [])[0]


def _cards(reader: Reader, unread: list[str]) -> tuple[list[Card], list[Peer]]:
    try:
        found = _display_devices(reader.root)
    except Unreadable as error:
        unread.append(str(error))
        return [], []
    nodes: list[kfd.GpuNode] = []
    answers: nvml.Nvml | None = None
    try:
        nodes = kfd.gpu_nodes(reader.root) if pci.AMD in found.values() else []
    except Unreadable as error:
        unread.append(str(error))
    try:
        answers = nvml.ask(reader.root) if pci.NVIDIA in found.values() else None
    except Unreadable as error:
        unread.append(f"{error} ({error.fix})" if error.fix else str(error))
    cards = []
    for address, vendor in found.items():
        try:
            if vendor == pci.AMD:
                cards.append(amd.probe_card(reader, address, nodes))
            elif vendor == pci.NVIDIA:
                cards.append(nvidia.probe_card(reader, address, answers))
            else:
                cards.append(_other_card(reader, address, vendor))
        except Unreadable as error:
            unread.append(str(error))
            cards.append(Card(address, VENDORS[vendor], f"{VENDORS[vendor]} card"))
    of = {name: [c.address for c in cards if c.vendor == name and not c.integrated] for name in VENDORS.values()}
    return cards, [*amd.peers(reader.root, of["AMD"]), *nvidia.peers(answers, of["NVIDIA"])]


def _display_devices(root: Root) -> dict[str, int]:
    """Vendor ids of all graphics and compute cards, by their PCI addresses."""
    found = {}
    for address in pci.addresses(root):
        try:
            kind, vendor = pci.device_class(root, address), pci.vendor(root, address)
        except Unreadable:
            continue
        if vendor in VENDORS and (kind in DISPLAY_CLASSES or (kind == ACCELERATOR_CLASS and vendor == pci.AMD)):
            found[address] = vendor
    return found


def _other_card(reader: Reader, address: str, vendor: int) -> Card:
    device = reader.number(f"{pci.folder(address)}/device") or 0
    name = pci_names.device_name(reader.root, vendor, device) or "graphics"
    return Card(
        address,
        VENDORS[vendor],
        f"{VENDORS[vendor]} {name} [{vendor:04x}:{device:04x}]",
        integrated=address == INTEL_INTEGRATED,
        link=pci.link(reader.root, address),
        lanes=pci.lanes(reader.root, address),
        numa_node=reader.number(f"{pci.folder(address)}/numa_node"),
    )
