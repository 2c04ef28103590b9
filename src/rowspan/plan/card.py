"""A card, or a machine of unified memory, as planning sees it: figures from its data sheet. No hardware is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MemoryKind(StrEnum):
    """What a card's memory is made of: how much of its nominal bandwidth is reached differs by it."""

    GDDR = "gddr"
    HBM = "hbm"
    UNIFIED = "unified"  # one memory for processor and graphics


@dataclass(frozen=True)
class Card:
    """Figures as published; None where nobody has published one that can be trusted.

    memory: bytes. bandwidth: bytes/s. fp16_flops, int8_ops: dense, two to a multiply-add, per second. interconnect: as
        written on the data sheet. tdp: watts. slots: of PCIe that it covers; None: it is no PCIe card, and `form` says
        what it is. price: USD at launch. unconfirmed: names of the figures that are not certain.
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
    tdp: float
    slots: float | None
    form: str
    price: float | None
    unconfirmed: str = ""
