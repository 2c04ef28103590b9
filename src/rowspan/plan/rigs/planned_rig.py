"""A card, or a machine of unified memory, as planning sees it: figures from its data sheet. No hardware is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PCIE_4_LANE = 16e9 * 128 / 130 / 8  # bytes/s in one direction: 16 GT/s, 128 bits coded as 130


class MemoryKind(StrEnum):
    """The kind of memory on a card, which determines what share of the nominal bandwidth is reached."""

    GDDR = "gddr"
    HBM = "hbm"
    UNIFIED = "unified"  # one memory for processor and graphics


@dataclass(frozen=True)
class CardSpec:
    """A card's published figures; None if nobody has published one that can be trusted.

    memory: bytes.
    bandwidth: bytes per second.
    fp16_flops, int8_ops: dense operations per second, two per multiply-add.
    interconnect: as written on the data sheet.
    peer_copies: whether cards may copy to each other directly.
    tdp: watts.
    slots: number of PCIe slots that it covers; None: it is no PCIe card, and `form` says what it is.
    price: US dollars at launch.
    unconfirmed: names of the figures that are not certain.
    """

    name: str
    vendor: str
    arch: str
    memory: int
    memory_kind: MemoryKind
    bandwidth: float
    fp16_flops: float
    int8_ops: float | None
    interconnect: str
    peer_copies: bool
    tdp: float
    slots: float | None
    form: str
    price: float | None
    unconfirmed: str = ""

    @property
    def link_bandwidth(self) -> float | None:
        """Nominal bytes per second, in one direction, of the link that every such card has: PCIe for a card in a slot,
        since a bridge is extra. None: neither PCIe nor NVLink nor Infinity Fabric is stated.
        """
        fabric = re.search(r"(?:NVLink|IF) (\d+) GB/s", self.interconnect)  # both directions together
        if fabric and self.slots is None:
            return int(fabric[1]) * 1e9 / 2
        pcie = re.search(r"PCIe (\d)\.0 x(\d+)", self.interconnect)
        return PCIE_4_LANE * 2.0 ** (int(pcie[1]) - 4) * int(pcie[2]) if pcie else None


def are_linked(cards: Sequence[CardSpec], peer_copies: bool | None) -> bool:
    """Whether cards copy to each other directly. peer_copies: None: as these cards do without patches."""
    return all(card.peer_copies for card in cards) if peer_copies is None else peer_copies


@dataclass(frozen=True)
class RigSpec:
    """Cards in one machine. name: as people write it, "2x W7900DS"."""

    name: str
    cards: tuple[CardSpec, ...]

    @property
    def watts(self) -> float:
        return sum(card.tdp for card in self.cards)

    @property
    def price(self) -> float | None:
        """US dollars for all cards; None if a card's price is unknown."""
        prices = [card.price for card in self.cards]
        return None if None in prices else sum(price for price in prices if price is not None)

    @property
    def slots(self) -> float | None:
        """Number of PCIe slots that all cards cover; None if one is no PCIe card."""
        slots = [card.slots for card in self.cards]
        return None if None in slots else sum(slot for slot in slots if slot is not None)
