"""The option `--gpus`: rigs as people write them, "2xW7900DS,4xRTX4090"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rowspan.errors import UsageError
from rowspan.plan.rigs.planned_rig import CardSpec, RigSpec
from rowspan.rig.catalog.known_cards import find_card

MOST_CARDS = 64
COUNTED = re.compile(r"(?:(\d{1,3})\s*[x×*]\s*)?(.+)", re.IGNORECASE)
MORE_CARDS = re.compile(r"\+(?=\s*\d{1,3}\s*[x×*])", re.IGNORECASE)  # a plus may be part of a name: Max+ 395


def parse_rigs(text: str, prices: Mapping[str, float] | None = None) -> list[RigSpec]:
    """Read rigs that commas separate; a plus joins unlike cards of one rig: "2xRTX 3090+1xRTX 4090".

    Args:
        prices: US dollars per card, by the catalog's names, in place of the catalog's own prices.

    Raises:
        UsageError: a card is unknown, or there are more of it than any rig has.
    """
    return [_rig(part, prices or {}) for part in text.split(",")]


def parse_prices(texts: list[str]) -> dict[str, float]:
    """Read `--price "RTX 3090=700"` into US dollars per card, by the catalog's names.

    Raises:
        UsageError: a text is not of this form, or names no known card.
    """
    prices = {}
    for text in texts:
        name, separator, amount = text.rpartition("=")
        try:
            price = float(amount.strip().lstrip("$"))
        except ValueError:
            price = -1.0
        if not separator or not 0 <= price < 1e9:
            raise UsageError(f"--price {text!r} is not a price.", fix='Write --price "RTX 3090=700", in USD.')
        prices[find_card(name).name] = price
    return prices


def _rig(text: str, prices: Mapping[str, float]) -> RigSpec:
    cards: list[CardSpec] = []
    names = []
    for part in MORE_CARDS.split(text):
        match = COUNTED.fullmatch(part.replace('"', "").replace("'", "").strip())
        if match is None:
            raise UsageError(
                "--gpus names a rig without cards.", fix="Write --gpus 2xW7900DS,4xRTX4090: rigs parted by commas."
            )
        count = int(match[1] or 1)
        if not 1 <= count <= MOST_CARDS:
            raise UsageError(f"{count} cards make no rig.", fix=f"Name 1 to {MOST_CARDS} of a kind.")
        card = find_card(match[2])
        cards += [replace(card, price=prices.get(card.name, card.price))] * count
        names.append(f"{count}x {card.name}" if count > 1 else card.name)
    return RigSpec(" + ".join(names), tuple(cards))
