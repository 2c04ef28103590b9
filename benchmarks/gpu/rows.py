"""The rows of the table, and what Rowspan has promised of each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peers.figures import Figure

from rowspan.bench.grid import Workload
from rowspan.bench.model_demand import Demand


@dataclass(frozen=True)
class Promise:
    """Ratios to llama.cpp's rate, and shares of the bandwidth at which the device copies its memory."""

    floor: float
    goal: float
    floor_share: float = 0.0
    goal_share: float = 0.0


@dataclass(frozen=True)
class Row:
    """model: its name, as in `models.BenchModel`."""

    model: str
    figure: Figure
    promise: Promise

    @property
    def name(self) -> str:
        return self.name_of(self.model, self.figure)

    @staticmethod
    def name_of(model: str, figure: Figure) -> str:
        return f"{model} {figure.name}"


@dataclass(frozen=True)
class Figures:
    """What is measured of every large model; `generation` of the small one, too."""

    generation: Figure
    prompts: tuple[Figure, ...]
    sequences: Figure
    deep: Figure


PROMISED = Figures(Figure(0, 128), (Figure(512), Figure(4096)), Figure(64, 128, n_sequences=64), Figure(0, 128, 16384))
TINY = Figures(Figure(0, 16), (Figure(32), Figure(96)), Figure(8, 16, n_sequences=4), Figure(0, 16, 256))


def rows_of(large_q8_0: str, large_q4_k_m: str, small: str, figures: Figures = PROMISED) -> list[Row]:
    """Args: names of the models."""
    large = (large_q8_0, large_q4_k_m)
    return [
        Row(large_q8_0, figures.generation, Promise(1.0, 1.2, 0.6, 0.8)),
        Row(large_q4_k_m, figures.generation, Promise(1.0, 1.3)),
        *(Row(model, figure, Promise(1.2, 2.0)) for model in large for figure in figures.prompts),
        *(Row(model, figures.sequences, Promise(3.0, 6.0)) for model in large),
        *(Row(model, figures.deep, Promise(1.0, 1.3)) for model in large),
        Row(small, figures.generation, Promise(1.0, 1.5)),
    ]


def workload(figure: Figure) -> Workload:
    """What `rowspan bench` calls it: of a figure of several sequences, their generation alone is timed."""
    if figure.n_sequences == 1:
        return Workload(figure.n_prompt, figure.n_gen, figure.n_depth)
    return Workload(0, figure.n_gen, figure.n_depth + figure.n_prompt, figure.n_sequences)


def ceiling_share(
    demand: Demand, figure: Figure, rate: float, copy_bytes: float, product_flops: float
) -> tuple[float, str]:
    """How much of a ceiling a rate in tokens per second takes, and of which: prompts of the rate of matrix products,
    generation of the bandwidth, whose bytes are counted as copying counts them, read and written alike."""
    if not figure.n_gen:
        return rate * demand.prompt_operations(figure.n_prompt) / figure.n_prompt / product_flops, "product"
    context = figure.n_depth + figure.n_prompt + figure.n_gen / 2
    return rate / figure.n_sequences * demand.step_bytes(context, figure.n_sequences) / copy_bytes, "copy"


def verdict(promise: Promise, ours: Sequence[float], theirs: Sequence[float], share: float | None) -> str:
    """ "goal", "floor", "BELOW"; "" where there is nothing to judge by."""
    if not ours or not theirs or (promise.floor_share and share is None):
        return ""
    ratio = statistics.median(ours) / statistics.median(theirs)
    if ratio >= promise.goal and (share or 0.0) >= promise.goal_share:
        return "goal"
    return "floor" if ratio >= promise.floor and (share or 0.0) >= promise.floor_share else "BELOW"
