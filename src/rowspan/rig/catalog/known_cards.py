"""The catalog of graphics cards, and the spellings by which people name them."""

from __future__ import annotations

import csv
import difflib
import re
from pathlib import Path

from rowspan.errors import UsageError
from rowspan.plan.rigs.planned_rig import CardSpec, MemoryKind

DATA = Path(__file__).with_name("cards.csv")
VENDOR_WORDS = re.compile(r"nvidia|geforce|radeon|instinct|intel|apple|\bamd\b")
SLOTS = re.compile(r"[\d.]+")


def known_cards() -> list[CardSpec]:
    """The whole catalog, in its own order."""
    with DATA.open(encoding="utf-8", newline="") as file:
        return [_card(row) for row in csv.DictReader(file)]


def find_card(name: str) -> CardSpec:
    """The card that a name means: in any spelling ("rtx4090"), or by a part of it that only one card has ("4090").

    Raises:
        UsageError: no card has this name, or several do; the message names the nearest.
    """
    cards = {_plain(card.name): card for card in known_cards()}
    wanted = _plain(name)
    if wanted in cards:
        return cards[wanted]
    partly = [card for plain, card in cards.items() if wanted and (plain.endswith(wanted) or plain.startswith(wanted))]
    if len(partly) == 1:
        return partly[0]
    if partly:
        names = ", ".join(card.name for card in partly)
        raise UsageError(f"{name!r} may be one of several cards.", why=f"There are {names}.", fix="Name one of them.")
    near = [cards[plain].name for plain in difflib.get_close_matches(wanted, list(cards), n=3, cutoff=0.4)]
    raise UsageError(
        f"No card is known as {name!r}.",
        why=f"The catalog has {len(cards)} cards, from {next(iter(cards.values())).name} on.",
        fix=(f"Did you mean {' or '.join(near)}? " if near else "") + "`rowspan plan --list` shows all names.",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", VENDOR_WORDS.sub("", name.lower()))


def _card(row: dict[str, str]) -> CardSpec:
    def number(column: str, unit: float = 1.0) -> float | None:
        return float(row[column]) * unit if row[column] else None

    def due(column: str, unit: float) -> float:
        value = number(column, unit)
        assert value is not None, f"{row['card']} needs {column}"
        return value

    return CardSpec(
        name=row["card"],
        vendor=row["vendor"],
        arch=row["arch"],
        memory=int(due("memory_gib", 1 << 30)),
        memory_kind=MemoryKind(row["memory_kind"]),
        bandwidth=due("bandwidth_gbs", 1e9),
        fp16_flops=due("fp16_dense_tflops", 1e12),
        int8_ops=number("int8_dense_tops", 1e12),
        interconnect=row["interconnect"],
        peer_copies=row["peer_copies"] == "yes",
        tdp=due("tdp_w", 1.0),
        slots=float(row["slots"]) if SLOTS.fullmatch(row["slots"]) else None,
        form="PCIe" if SLOTS.fullmatch(row["slots"]) else row["slots"],
        price=number("launch_usd"),
        unconfirmed=row["unconfirmed"],
    )
