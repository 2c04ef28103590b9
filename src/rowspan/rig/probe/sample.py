"""Watches PCIe links for some seconds: idle links slow down to save power, and reach full speed only under load."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rowspan.rig.probe import nvml, pci
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Root, Unreadable

PAUSE = 0.5  # seconds between two looks


@dataclass(frozen=True)
class LinkSample:
    """Extremes of a card's link while it was watched. Speeds in GT/s; busiest: percent. None: could not be read."""

    address: str
    slowest: float | None
    fastest: float | None
    width: int | None
    busiest: int | None


def sample_links(root: Root, cards: Sequence[Card], seconds: float) -> list[LinkSample]:
    """Read the links repeatedly for some seconds. The user provides the load: this function starts none."""
    links: dict[str, list[pci.Link]] = {card.address: [] for card in cards}
    busy: dict[str, list[int]] = {card.address: [] for card in cards}
    end = time.monotonic() + seconds
    while True:
        for card in cards:
            try:
                links[card.address].append(pci.link(root, card.address))
            except Unreadable:
                continue
        for address, percent in _busy(root, cards).items():
            busy[address].append(percent)
        if time.monotonic() >= end:
            return [_summary(card.address, links[card.address], busy[card.address]) for card in cards]
        root = root.later(PAUSE)
        if root.recorded:
            end = 0.0  # a recorded machine has one later state


def _busy(root: Root, cards: Sequence[Card]) -> dict[str, int]:
    known = {card.address: Reader(root).number(f"{pci.folder(card.address)}/gpu_busy_percent") for card in cards}
    if any(card.vendor == "NVIDIA" for card in cards):
        with contextlib.suppress(Unreadable):
            known |= {card.address: card.busy for card in nvml.ask(root).cards if card.address in known}
    return {address: percent for address, percent in known.items() if percent is not None}


def _summary(address: str, links: list[pci.Link], busy: list[int]) -> LinkSample:
    speeds = [link.speed for link in links if link.speed is not None]
    widths = [link.width for link in links if link.width is not None]
    return LinkSample(
        address,
        min(speeds, default=None),
        max(speeds, default=None),
        max(widths, default=None),
        max(busy, default=None),
    )
