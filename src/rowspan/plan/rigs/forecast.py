"""Forecasts how fast a model will run on cards, from physics and a few fitted constants.

A token takes the time to read its weights and KV cache, plus an overhead per layer, plus communication between cards. A
prompt takes the time to do its operations, plus the same. The constants are in forecast.json, with their fit, made by
benchmarks/fit_forecast.py from published results; docs/forecast.md shows how well they do. Every constant is exp of a
sum of deviations, from the general to the particular: a card whose kind was never measured has the general ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rowspan.plan.rigs.demand import ModelDemand, Run
from rowspan.plan.rigs.planned_rig import CardSpec
from rowspan.plan.split_mode import SplitMode

DATA = Path(__file__).with_name("forecast.json")
FAMILIES = {"sm_": "nvidia", "gfx11": "rdna", "gfx12": "rdna", "gfx9": "cdna", "xe": "intel"}
MICRO_BATCH = 512  # tokens that pass through the stages of a layer split together
COLLECTIVES_PER_LAYER = 2

# Seconds of one of NCCL's collectives for a single token, as measured by others (docs/forecast.md): over peer copies,
# and through shared memory. For many tokens' activations: with peer copies the share of a link's nominal rate that is
# reached, as measured on PCIe 4.0 x16 (19.9 GB/s); and bytes/s through the host.
COLLECTIVE_SECONDS = {True: 22e-6, False: 39e-6}
PEER_SHARE = 0.63
HOST_BYTES_PER_SECOND = 1.9e9


@dataclass(frozen=True)
class Interval:
    """A forecast: eight of ten measurements are expected between low and high."""

    low: float
    value: float
    high: float

    def scaled(self, factor: float) -> Interval:
        return Interval(self.low * factor, self.value * factor, self.high * factor)


@dataclass(frozen=True)
class Forecast:
    """The speed of one request: tokens per second, and seconds until its first token; None if nothing is known about
    prompts.
    """

    tg: Interval
    pp: Interval | None
    ttft: Interval | None


@dataclass(frozen=True)
class Constants:
    """The fitted constants.

    values: logarithms of the constants, by name.
    spread: the interval's half-width in logarithms, by what is forecast and whether the card's kind was measured.
    kinds: card architectures that were measured.
    """

    values: Mapping[str, float]
    spread: Mapping[str, float]
    kinds: frozenset[str]

    def of(self, name: str, *levels: str) -> float:
        """A constant: exp of its general value plus its deviations for each of the levels."""
        return math.exp(sum(self.values.get(key, 0.0) for key in (name, *(f"{name}/{level}" for level in levels))))


@lru_cache(maxsize=1)
def fitted_constants() -> Constants:
    """The constants shipped with the package."""
    stored = json.loads(DATA.read_text(encoding="utf-8"))
    return Constants(stored["values"], stored["spread"], frozenset(stored["kinds"]))


def forecast(
    demand: ModelDemand, run: Run, *, prompt: int = 512, generated: int = 128, constants: Constants | None = None
) -> Forecast:
    """Forecast the speed of one request: `prompt` tokens, and `generated` tokens, each behind an empty cache as
    llama-bench measures them.
    """
    constants = constants or fitted_constants()
    # No result is of a mixture, or of a row split by a present build: these get the wider interval.
    fitted = run.mode is not SplitMode.ROW and not demand.is_mixture
    known = fitted and all(card.arch in constants.kinds for card in run.cards)
    seen = "seen" if known else "unseen"

    def around(value: float, what: str) -> Interval:
        factor = math.exp(constants.spread[f"{what}/{seen}"])
        return Interval(value / factor, value, value * factor)

    tg = 1 / token_seconds(demand, run, generated / 2, constants)
    if run.engine == "vLLM" or demand.is_mixture:  # too little is published; experts meet few tokens of a prompt each
        return Forecast(around(tg, "tg"), None, None)
    pp = prompt / prompt_seconds(demand, run, prompt, constants)
    rate = around(pp, "pp")
    return Forecast(around(tg, "tg"), rate, Interval(prompt / rate.high, prompt / rate.value, prompt / rate.low))


def token_seconds(demand: ModelDemand, run: Run, context: float, constants: Constants) -> float:
    """Seconds to generate one token behind `context` others."""
    needed = demand.token_bytes(context)
    reading = [needed * share / _reading(card, constants) for card, share in zip(run.cards, run.fractions, strict=True)]
    overhead = demand.layers * max(_overhead(card, run, constants) for card in run.cards)
    if run.mode is SplitMode.ROW and len(run.cards) > 1:
        return max(reading) + overhead + demand.layers * COLLECTIVES_PER_LAYER * _collective(run, constants)
    return sum(reading) + overhead + (len(run.cards) - 1) * constants.of("hop")


def prompt_seconds(demand: ModelDemand, run: Run, tokens: int, constants: Constants) -> float:
    """Seconds to compute a prompt in batches. Each batch takes the time for its operations or for reading all weights,
    whichever is longer, plus the overhead of every layer.
    """
    batches = math.ceil(tokens / MICRO_BATCH)
    operations = demand.prompt_operations(tokens) / batches
    computing = [
        share
        * max(operations / _rate(card, demand, run, constants), demand.all_weight_bytes / _reading(card, constants))
        for card, share in zip(run.cards, run.fractions, strict=True)
    ]
    starting = demand.layers * max(_overhead(card, run, constants) for card in run.cards)
    if run.mode is SplitMode.ROW and len(run.cards) > 1:
        moved = tokens * demand.activation_bytes * demand.layers * COLLECTIVES_PER_LAYER
        ring = 2 * (len(run.cards) - 1) / len(run.cards)
        return batches * (max(computing) + starting) + moved * ring / _link(run, constants)
    # In a pipeline the first batch passes through all stages; the others follow at the slowest stage's rate.
    starts = [starting * share for share in run.fractions]
    stages = [seconds + start for seconds, start in zip(computing, starts, strict=True)]
    return sum(stages) + (batches - 1) * max(stages)


def family(card: CardSpec) -> str:
    """The family that a card's architecture belongs to."""
    return next((name for prefix, name in FAMILIES.items() if card.arch.startswith(prefix)), card.vendor.lower())


def _reading(card: CardSpec, constants: Constants) -> float:
    """Bytes per second at which a card reads memory."""
    return card.bandwidth * constants.of("read", card.memory_kind, f"{card.memory_kind}/{family(card)}")


def _overhead(card: CardSpec, run: Run, constants: Constants) -> float:
    return constants.of("layer", family(card), card.arch, *_circumstances(run))


def _rate(card: CardSpec, demand: ModelDemand, run: Run, constants: Constants) -> float:
    """Operations per second of a card. Quantized products run on 8-bit units if the card has them."""
    on_int8 = demand.is_quantized and card.int8_ops is not None
    peak = card.int8_ops if on_int8 and card.int8_ops else card.fp16_flops
    levels = [family(card), card.arch, *_circumstances(run)]
    if run.is_old:
        levels += [f"old/{card.arch}"]
    if not demand.is_quantized:
        levels += ["float"]
    return peak * constants.of("compute", *levels)


def _circumstances(run: Run) -> list[str]:
    return [name for name, holds in (("old", run.is_old), ("vulkan", run.engine.endswith("Vulkan"))) if holds]


def _collective(run: Run, constants: Constants) -> float:
    """Seconds that one collective takes for a single token."""
    if run.is_old:
        return constants.of("old_row")
    return COLLECTIVE_SECONDS[run.is_linked]


def _link(run: Run, constants: Constants) -> float:
    """Bytes per second between cards."""
    if run.is_old:
        return constants.of("old_link")
    links = [card.link_bandwidth for card in run.cards]
    if not run.is_linked or None in links:
        return HOST_BYTES_PER_SECOND
    return PEER_SHARE * min(link for link in links if link is not None)
