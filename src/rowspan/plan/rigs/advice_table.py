"""Formats advice as a table: a column for every rig, a line for every figure. Plain data: the terminal does not
matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from rowspan.plan.explain import memory_text
from rowspan.plan.rigs.advice import Advice, Option, RigAdvice
from rowspan.plan.rigs.capacity import usable_bytes
from rowspan.plan.rigs.forecast import Interval
from rowspan.plan.rigs.planned_rig import are_linked
from rowspan.plan.split_mode import SplitMode

NONE = "-"
GIB = 1 << 30
ATX_SLOTS = 7
MOST_LISTED = 4  # up to so many cards, bytes are listed card by card


def lines(advice: Advice) -> list[tuple[str, ...]]:
    """Lines of a label and a cell for each rig. Lines that would be empty for every rig are left out."""
    load, split = advice.request.load, [mode for mode in SplitMode if _any_has(advice, mode)]
    slots = load.parallel
    table: list[tuple[str, Callable[[RigAdvice], str]]] = [("fits", _fits)]
    if slots > 1:
        table.append((f"requests of {load.context} at once", lambda rig: _most(rig, slots)))
    table.append(("max context, 1 request", lambda rig: _context(rig, 1)))
    if slots > 1:
        table.append((f"max context, {slots} requests", lambda rig: _context(rig, slots)))
    table += [(f"GiB per card, {mode}", partial(_bytes, mode)) for mode in split]
    table.append(("GiB usable of a card", partial(_usable, load.utilization)))
    if load.gpu_layers is not None:
        table.append(("RAM for the other layers", _ram))
    table.append(("fewest cards of its kind", lambda rig: str(rig.fewest or NONE)))
    table.append(("largest that fits", lambda rig: rig.best_quantization(1) or NONE))
    if slots > 1:
        table.append((f"with {slots} full requests", lambda rig: rig.best_quantization(slots) or NONE))
    tokens = advice.request.prompt
    table += [(f"tg, {mode}, tokens/s", partial(_rate, mode, "tg")) for mode in split]
    table += [(f"pp{tokens}, {mode}, tokens/s", partial(_rate, mode, "pp")) for mode in split]
    table += [
        ("TTFT, best split, ms", _first_token),
        ("watts (sum of TDP)", lambda rig: f"{rig.rig.watts:.0f}"),
        ("price, USD", lambda rig: NONE if rig.rig.price is None else f"{rig.rig.price:,.0f}"),
        ("tg per 1000 USD", lambda rig: f"{rig.tg_per_kilodollar:.1f}" if rig.tg_per_kilodollar else NONE),
        ("PCIe slots", _slots),
    ]
    filled = [(label, *(cell(rig) for rig in advice.rigs)) for label, cell in table]
    return [line for line in filled if any(cell != NONE for cell in line[1:])]


def notes(advice: Advice) -> list[str]:
    """Sentences that a reader of the table should know."""
    found = list(advice.outline.notes)
    for rig in advice.rigs:
        for option in rig.options:
            if option.refusal:
                found.append(f"{rig.rig.name}, {option.mode}: {option.refusal}")
    doubtful = {card.name: card.unconfirmed for rig in advice.rigs for card in rig.rig.cards if card.unconfirmed}
    found += [f"Not certain of {name}: {what.replace(';', ', ')}." for name, what in doubtful.items()]
    for rig in advice.rigs:
        if rig.rig.slots and rig.rig.slots > ATX_SLOTS:
            found.append(
                f"{rig.rig.name} covers {rig.rig.slots:g} slots, an ATX board has {ATX_SLOTS}: it takes risers."
            )
    if any(rig.tg for rig in advice.rigs):
        if advice.outline.spec.expert_share < 1:
            found.append("No prompt speed is foretold of mixtures: no result of one is in the fit.")
        linked = advice.request.peer_copies
        rigs = [rig.rig for rig in advice.rigs if len(rig.rig.cards) > 1]
        hosted = [rig.name for rig in rigs if not are_linked(rig.cards, linked)]
        if hosted:
            found.append(f"Taken to copy between cards by way of the host: {', '.join(hosted)} (--link p2p if not so).")
        found.append(
            f"Speeds are those expected of {advice.request.engine}, for one request on an empty cache; in brackets: "
            "eight of ten rigs lie within (docs/forecast.md)."
        )
    return found


def to_dict(advice: Advice) -> dict[str, Any]:
    """The advice for JSON, in bytes, tokens, tokens per second, seconds, watts and US dollars."""
    outline, request = advice.outline, advice.request
    return {
        "model": {
            "name": outline.spec.name,
            "quantization": outline.scheme,
            "parameters": outline.parameters,
            "file_bytes": outline.file_bytes,
            "bytes_per_token": outline.token_bytes,
            "context": outline.spec.context_length,
        },
        "request": asdict(request),
        "rigs": [_rig_dict(rig, request.load.parallel) for rig in advice.rigs],
        "recommendation": advice.words,
        "notes": notes(advice),
    }


def _rig_dict(rig: RigAdvice, parallel: int) -> dict[str, Any]:
    return {
        "name": rig.rig.name,
        "cards": [card.name for card in rig.rig.cards],
        "fits": rig.best is not None,
        "best_split": rig.best.mode if rig.best else None,
        "fewest_cards": rig.fewest,
        "largest_quantization": {"1": rig.best_quantization(1), str(parallel): rig.best_quantization(parallel)},
        "watts": rig.rig.watts,
        "price_usd": rig.rig.price,
        "tg_per_1000_usd": rig.tg_per_kilodollar,
        "pcie_slots": rig.rig.slots,
        "splits": {option.mode.value: _option_dict(option, parallel) for option in rig.options},
    }


def _option_dict(option: Option, parallel: int) -> dict[str, Any]:
    placement = option.placement
    if placement is None:
        return {"fits": False, "refusal": option.refusal}
    return {
        "fits": option.fits,
        "requests_at_once": option.slots,
        "largest_context": {"1": placement.largest_context(1), str(parallel): placement.largest_context(parallel)},
        "ram_bytes": placement.ram_bytes,
        "cards": [
            {
                "card": need.card.name,
                "layers": need.layers,
                "weights": need.weights,
                "cache": need.cache,
                "activations": need.activations,
                "overhead": need.overhead,
                "total": need.total,
                "usable": need.usable,
            }
            for need in placement.needs_of(placement.load.context, max(1, option.slots))
        ],
        "forecast": asdict(option.forecast) if option.forecast else None,
    }


def _any_has(advice: Advice, mode: SplitMode) -> bool:
    return any(option.mode is mode for rig in advice.rigs for option in rig.options)


def _option(rig: RigAdvice, mode: SplitMode) -> Option | None:
    return next((option for option in rig.options if option.mode is mode), None)


def _fits(rig: RigAdvice) -> str:
    if rig.best is None:
        return "no"
    return "yes" if len(rig.options) == 1 else "yes, " + ", ".join(o.mode for o in rig.options if o.fits)


def _most(rig: RigAdvice, asked: int) -> str:
    return f"{rig.best.slots} of {asked}" if rig.best else NONE


def _context(rig: RigAdvice, slots: int) -> str:
    """The largest context with the best split; if the rig is too small for the request, with the split that holds
    most.
    """
    options = [rig.best] if rig.best else rig.options
    placed = [option.placement for option in options if option.placement]
    tokens = max((placement.largest_context(slots) for placement in placed), default=0)
    return str(tokens) if tokens else NONE


def _bytes(mode: SplitMode, rig: RigAdvice) -> str:
    """Bytes per card with as many requests as fit, or with one if none fits."""
    option = _option(rig, mode)
    if option is None or option.placement is None:
        return NONE
    needs = option.placement.needs_of(option.placement.load.context, max(1, option.slots))
    each = [f"{need.total / GIB:.1f}" for need in needs]
    if len(each) > MOST_LISTED:
        return f"{len(each)} x {min(each, key=float)} to {max(each, key=float)}"
    return " ".join(each)


def _usable(utilization: float | None, rig: RigAdvice) -> str:
    sizes = {card.name: card for card in rig.rig.cards}
    return " ".join(f"{usable_bytes(card, utilization) / GIB:.1f}" for card in sizes.values())


def _ram(rig: RigAdvice) -> str:
    placed = next((option.placement for option in rig.options if option.placement), None)
    return memory_text(placed.ram_bytes) if placed else NONE


def _rate(mode: SplitMode, what: str, rig: RigAdvice) -> str:
    option = _option(rig, mode)
    rate = getattr(option.forecast, what) if option and option.forecast else None
    return _interval(rate) if rate else NONE


def _first_token(rig: RigAdvice) -> str:
    seconds = rig.best.forecast.ttft if rig.best and rig.best.forecast else None
    return _interval(seconds.scaled(1000)) if seconds else NONE


def _interval(interval: Interval) -> str:
    """The three values, in as many digits as are significant for the middle one."""
    digits = 0 if interval.value >= 10 else 1 if interval.value >= 1 else 2
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def _slots(rig: RigAdvice) -> str:
    if rig.rig.slots is None:
        return next(card.form for card in rig.rig.cards if card.slots is None)
    return f"{rig.rig.slots:g}"
