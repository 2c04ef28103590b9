"""Advises which rig to take for a model, and how to split it: fit and forecast of several rigs, and a
recommendation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rowspan.errors import SplitError
from rowspan.plan.rigs.capacity import Load, Placement, fewest_cards, place
from rowspan.plan.rigs.demand import Run, demand_of
from rowspan.plan.rigs.forecast import Forecast, forecast
from rowspan.plan.rigs.outline import Outline
from rowspan.plan.rigs.planned_rig import RigSpec
from rowspan.plan.split_mode import SplitMode

USUAL = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")  # quantizations to try, from the largest
TIE = 1.05  # two splits or rigs whose speeds differ by less than this factor count as equally fast


@dataclass(frozen=True)
class AdviceRequest:
    """The work that a rig is to do.

    prompt, generated: numbers of tokens, for the forecast.
    engine: see `demand.Run`.
    peer_copies: whether cards copy to each other directly; None: as these cards do without patches.
    ratios: shares of the cards; None: by their memory.
    """

    load: Load
    prompt: int = 512
    generated: int = 128
    engine: str = "llama.cpp"
    peer_copies: bool | None = None
    ratios: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Option:
    """A rig with one split.

    refusal: why the model cannot be split so; then there is no placement.
    forecast: only if the model fits, with at least one request, and lies on cards altogether.
    """

    mode: SplitMode
    placement: Placement | None
    refusal: str
    slots: int  # number of requests with the whole context at once, up to the number asked for
    forecast: Forecast | None

    @property
    def fits(self) -> bool:
        return self.slots > 0


@dataclass(frozen=True)
class RigAdvice:
    """One rig: every split, and the best of them."""

    rig: RigSpec
    options: tuple[Option, ...]
    request: AdviceRequest
    outline: Outline

    @cached_property
    def best(self) -> Option | None:
        """The split that fits and generates fastest; among equally fast ones the one with more room, then the simpler
        one.
        """
        fitting = [option for option in self.options if option.fits]
        if not fitting:
            return None
        fastest = max(_tg(option) for option in fitting)
        close = [option for option in fitting if _tg(option) * TIE >= fastest]
        return max(close, key=lambda option: option.slots)

    @property
    def tg(self) -> float | None:
        """Tokens per second that the best split generates."""
        return self.best.forecast.tg.value if self.best and self.best.forecast else None

    @property
    def tg_per_kilodollar(self) -> float | None:
        return 1000 * self.tg / self.rig.price if self.tg and self.rig.price else None

    @cached_property
    def fewest(self) -> int | None:
        """Number of cards of this kind that one request needs; None if the cards are of several kinds, or none
        suffice.
        """
        if len({card.name for card in self.rig.cards}) > 1:
            return None
        counts = [
            fewest_cards(self.outline, self.rig.cards[0], mode, self.request.load)
            for mode in (SplitMode.LAYER, SplitMode.ROW)
        ]
        return min((count for count in counts if count is not None), default=None)

    def best_quantization(self, slots: int) -> str | None:
        """The largest of the usual quantizations with which `slots` requests fit; None if none does. They are sorted by
        size, so that a binary search finds it.
        """
        place = bisect_left(USUAL, True, key=lambda name: self._holds(self.outline.requantized(name), slots))
        return USUAL[place] if place < len(USUAL) else None

    def _holds(self, outline: Outline, slots: int) -> bool:
        return any(
            placement is not None and placement.fits(slots=slots)
            for placement, _ in (_place(outline, self.rig, option.mode, self.request) for option in self.options)
        )


@dataclass(frozen=True)
class Advice:
    """All rigs, and the recommendation."""

    outline: Outline
    request: AdviceRequest
    rigs: tuple[RigAdvice, ...]

    @property
    def words(self) -> list[str]:
        """The recommendation, in sentences."""
        return recommendation(self)


def advise(
    outline: Outline, rigs: Sequence[RigSpec], request: AdviceRequest, modes: Sequence[SplitMode] = ()
) -> Advice:
    """Examine every rig with every split. modes: only these; empty: all."""
    return Advice(
        outline,
        request,
        tuple(RigAdvice(rig, _options(outline, rig, request, modes), request, outline) for rig in rigs),
    )


def _options(outline: Outline, rig: RigSpec, request: AdviceRequest, modes: Sequence[SplitMode]) -> tuple[Option, ...]:
    possible = list(SplitMode) if len(rig.cards) > 1 else [SplitMode.NONE]
    return tuple(_option(outline, rig, mode, request) for mode in possible if mode in (modes or possible))


def _option(outline: Outline, rig: RigSpec, mode: SplitMode, request: AdviceRequest) -> Option:
    placement, refusal = _place(outline, rig, mode, request)
    slots = placement.full_slots() if placement else 0
    expected = None
    if placement and slots and not placement.ram_weights:
        run = Run(placement.cards, mode, request.engine, shares=placement.weights, peer_copies=request.peer_copies)
        demand = demand_of(outline, request.load.cache_types)
        expected = forecast(demand, run, prompt=request.prompt, generated=request.generated)
    return Option(mode, placement, refusal, slots, expected)


def _place(outline: Outline, rig: RigSpec, mode: SplitMode, request: AdviceRequest) -> tuple[Placement | None, str]:
    try:
        return place(outline, rig.cards, mode, request.load, request.ratios), ""
    except SplitError as error:
        return None, f"{error.what} {error.why}"


def _tg(option: Option) -> float:
    return option.forecast.tg.value if option.forecast else 0.0


def recommendation(advice: Advice) -> list[str]:
    """Sentences that say which rig to take, what taking another one costs, and what does not work."""
    fitting = [rig for rig in advice.rigs if rig.best]
    sentences = [_misfit(rig) for rig in advice.rigs if not rig.best]
    forecast_of = [rig for rig in fitting if rig.tg]
    if not forecast_of:
        return [*_fits_only(fitting), *sentences]
    worth = [rig for rig in forecast_of if rig.tg_per_kilodollar]
    chosen = max(worth or forecast_of, key=lambda rig: (rig.tg_per_kilodollar or 0.0, rig.tg or 0.0))
    words = [_choice(chosen, advice, among=len(forecast_of), by_price=bool(worth))]
    words += [_compared(rig, chosen) for rig in forecast_of if rig is not chosen]
    return words + sentences


def _choice(chosen: RigAdvice, advice: Advice, *, among: int, by_price: bool) -> str:
    assert chosen.best is not None
    assert chosen.best.forecast is not None
    tg = chosen.best.forecast.tg
    split = f" with --split-mode {chosen.best.mode}" if len(chosen.rig.cards) > 1 else ""
    reason = ""
    if among > 1:
        reason = ", the most speed for its price of those that hold it" if by_price else ", the fastest that holds it"
    asked = advice.request.load.parallel
    room = ""
    if chosen.best.slots < asked:
        room = f" {chosen.best.slots} of {asked} requests of {advice.request.load.context} tokens fit at once."
    return f"{chosen.rig.name}{split}{reason}: about {tg.value:.0f} tokens/s ({tg.low:.0f} to {tg.high:.0f}).{room}"


def _compared(rig: RigAdvice, chosen: RigAdvice) -> str:
    assert rig.tg is not None
    assert chosen.tg is not None
    ratio = rig.tg / chosen.tg
    speed = f"is {ratio:.1f} times as fast"
    if 1 / TIE < ratio < TIE:
        speed = "is as fast"
    elif ratio < 1:
        speed = f"has {100 * ratio:.0f} % of its speed"
    price = " (no price is known)"
    if rig.rig.price and chosen.rig.price:
        price = f" at {rig.rig.price / chosen.rig.price:.1f} times the price"
    return f"{rig.rig.name} {speed}{price}, with {rig.rig.watts:.0f} instead of {chosen.rig.watts:.0f} W."


def _misfit(rig: RigAdvice) -> str:
    options = [f"{rig.fewest} of these cards"] if rig.fewest else []
    smaller = rig.best_quantization(1)
    options += [smaller] if smaller else []
    remedy = f" It takes {', or '.join(options)}." if options else ""
    return f"{rig.rig.name} does not hold {rig.outline.label}.{remedy}"


def _fits_only(fitting: Sequence[RigAdvice]) -> list[str]:
    return [f"{rig.rig.name} holds it, with no forecast of its speed: part of the model is in RAM." for rig in fitting]
