"""The result as a Markdown table: medians, ratios to the best peer, shares of the machine's ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.figures import HELD_BACK, Figure, Target, target
from rowspan.bench.engines.model_facts import ModelFacts, model_facts
from rowspan.bench.machine.roofline import Ceilings
from rowspan.bench.model_demand import Demand
from rowspan.model.open_checkpoint import open_checkpoint, read_spec

Samples = dict[tuple[Path, str | None, str, Figure], list[float]]  # by model, instruction set, engine, figure
ROWSPAN = "rowspan"


@dataclass(frozen=True)
class Model:
    """facts.path is as it was given."""

    facts: ModelFacts
    demand: Demand

    @property
    def scheme(self) -> str:
        return self.facts.type.split()[-1]


def open_model(path: Path) -> Model:
    checkpoint = open_checkpoint(path)
    spec = read_spec(checkpoint)
    model = Model(model_facts(checkpoint, spec), Demand.of(spec, checkpoint.tensors))
    checkpoint.close()
    return model


def ceilings_text(ceilings: Ceilings | None) -> str:
    if ceilings is None:
        return "ceilings: not measured, since there are no native kernels here"
    rates = ", ".join(f"{unit} {rate / 1e12:.2f}" for unit, rate in ceilings.flops.items())
    bandwidth = f"{ceilings.read_bytes_per_second / 1e9:.1f} GB/s read"
    return f"ceilings of {ceilings.of}: {bandwidth}; Top/s from registers: {rates}"


def table(model: Model, isa: str | None, figures: Sequence[Figure], samples: Samples, ceilings: Ceilings | None) -> str:
    """One model on one instruction set; None: the machine's best."""
    medians = {
        (engine, figure): statistics.median(rates)
        for (path, of_isa, engine, figure), rates in samples.items()
        if (path, of_isa) == (model.facts.path, isa)
    }
    engines = list(dict.fromkeys(engine for engine, _ in medians))
    header = [f"{model.facts.type}, {isa or 'best'}", *engines, "ratio", "floor", "goal", "of ceiling", ""]
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"]]
    for figure in figures:
        rates = [medians.get((engine, figure)) for engine in engines]
        peers = [rate for engine, rate in zip(engines, rates, strict=True) if rate and engine != ROWSPAN]
        own = medians.get((ROWSPAN, figure))
        ratio = own / max(peers) if own and peers else None
        share = ceiling_share(model.demand, isa, figure, own, ceilings) if own and ceilings else None
        promised = HELD_BACK if isa else target(figure, model.facts.n_params, model.scheme)
        lines.append(
            [
                figure.name,
                *("" if rate is None else f"{rate:.1f}" for rate in rates),
                "" if ratio is None else f"{ratio:.2f}",
                f"{promised.floor:.1f}",
                f"{promised.goal_share:.0%} of ceiling" if promised.goal_share else f"{promised.goal:.1f}",
                "" if share is None else f"{share:.0%}",
                verdict(promised, ratio, share),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ceiling_share(demand: Demand, isa: str | None, figure: Figure, rate: float, ceilings: Ceilings) -> float:
    """Generation against the read bandwidth, prompts against the fastest multiply-add unit."""
    if not figure.n_gen:
        return rate * demand.prompt_operations(figure.n_prompt) / figure.n_prompt / ceilings.best_flops(isa)
    context = figure.n_depth + figure.n_prompt + figure.n_gen / 2
    steps_per_second = rate / figure.n_sequences
    return steps_per_second * demand.step_bytes(context, figure.n_sequences) / ceilings.read_bytes_per_second


def verdict(promised: Target, ratio: float | None, share: float | None) -> str:
    reached, goal = (share, promised.goal_share) if promised.goal_share else (ratio, promised.goal)
    if reached is not None and reached >= goal:
        return "goal"
    return "" if ratio is None else "floor" if ratio >= promised.floor else "BELOW"
