"""The guard: how fast this machine was, and whether it still is after an upgrade.

A baseline holds what a machine's speed depends on (driver, kernel, firmware, engine) and the rates of a short bench.

The rule: a change counts if the medians of the repetitions differ by more than `LEAST_CHANGE`, and by more than
`SPREADS` times the larger of both spreads. Spread is the median absolute deviation, times 1.4826, which for normally
distributed rates is their standard deviation, and which single slow repetitions do not move (Rousseeuw, Croux 1993).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rowspan.bench.engines.native_jobs import native_jobs
from rowspan.bench.grid import Grid, Workload
from rowspan.bench.run.rounds import Procedure, measure_jobs
from rowspan.config import EngineConfig
from rowspan.errors import RowspanError, UsageError
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.probe.rig import Rig

LEAST_CHANGE = 0.05  # processes differ by some percent from start to start, whatever their repetitions say
SPREADS = 3.0
STEADY = 0.25  # where changes count from more than this share, "no change" says nothing
MAD_TO_DEVIATION = 1.4826
WORKLOADS = (Workload(256, 0), Workload(0, 32))
REPETITIONS = 7


@dataclass(frozen=True)
class Baseline:
    """circumstances: what speed depends on, by name. rates: tokens per second of every repetition, by workload.
    model: fingerprint of the model's file. saved: when, ISO 8601."""

    saved: str
    model: str
    circumstances: Mapping[str, str]
    rates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class RateComparison:
    """Medians in tokens per second; change and threshold are shares of the earlier median."""

    workload: str
    before: float
    after: float
    threshold: float

    @property
    def change(self) -> float:
        return self.after / self.before - 1

    @property
    def slower(self) -> bool:
        return self.change < -self.threshold

    @property
    def faster(self) -> bool:
        return self.change > self.threshold

    @property
    def verdict(self) -> str:
        """In words; "too unsteady to tell" is not "same"."""
        if self.slower:
            return "SLOWER"
        if self.faster:
            return "faster"
        return "same" if self.threshold <= STEADY else "too unsteady to tell"


def circumstances(rig: Rig, engine_version: str) -> dict[str, str]:
    """What a machine's speed depends on."""
    facts = {"engine": engine_version, "kernel": rig.system.kernel, "processor": rig.cpu.model}
    for card in rig.cards:
        facts[f"{card.address} card"] = card.name
        facts[f"{card.address} driver"] = card.driver or "unknown"
        facts |= {f"{card.address} firmware {part}": version for part, version in card.firmware}
    return facts


def measure(model: Path, sha256: str | None, on_progress: Callable[[str], None]) -> tuple[str, dict[str, list[float]]]:
    """The model's fingerprint, and rates by workload; takes some ten seconds with a small model.

    Raises:
        RowspanError: the model cannot be run here.
    """
    grid = Grid(
        [(Device("cpu", 0),)],
        [SplitMode.LAYER],
        [0],
        [None],
        [None],
        [None],
        [None],
        [EngineConfig.token_budget],
        [None],
    )
    jobs = native_jobs({model: sha256}, grid, WORKLOADS)
    rows = list(measure_jobs(jobs, WORKLOADS, Procedure(REPETITIONS), lambda progress: on_progress(progress.text)))
    rates = {workload.name: row["samples_ts"] for workload, row in zip(WORKLOADS, rows, strict=True)}
    return rows[0]["model_fingerprint"], rates


def changed(before: Baseline, after: Baseline) -> list[str]:
    """What is different about the circumstances, in words."""
    names = sorted({*before.circumstances, *after.circumstances})
    values = ((name, *(side.circumstances.get(name, "absent") for side in (before, after))) for name in names)
    return [f"{name}: {was} → {now}" for name, was, now in values if was != now]


def compare(before: Baseline, after: Baseline) -> list[RateComparison]:
    """Every workload that both measured.

    Raises:
        UsageError: they are of different models, or have nothing in common.
    """
    if before.model != after.model:
        raise UsageError(
            "The baseline was measured with another model.",
            why="Rates of different models do not compare.",
            fix="Save a new one: rowspan doctor --baseline save.",
        )
    common = [name for name in after.rates if name in before.rates]
    if not common:
        raise UsageError(
            "The baseline measured other workloads.", fix="Save a new one: rowspan doctor --baseline save."
        )
    return [_compare(name, before.rates[name], after.rates[name]) for name in common]


def _compare(workload: str, before: Sequence[float], after: Sequence[float]) -> RateComparison:
    then, now = statistics.median(before), statistics.median(after)
    return RateComparison(workload, then, now, _threshold(before, after))


def _threshold(before: Sequence[float], after: Sequence[float]) -> float:
    spread = max(_deviation(before), _deviation(after)) / statistics.median(before)
    return max(LEAST_CHANGE, SPREADS * spread)


def _deviation(rates: Sequence[float]) -> float:
    middle = statistics.median(rates)
    return MAD_TO_DEVIATION * statistics.median(abs(rate - middle) for rate in rates)


def unsteady(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Workloads whose rates vary so much that little can be compared with them."""
    return [name for name, samples in rates.items() if _threshold(samples, samples) > STEADY]


def save(baseline: Baseline, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        RowspanError: the folder cannot be written to.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(baseline), indent=2), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise RowspanError(
            f"The baseline could not be written to {path}.", why=str(error), fix="Set ROWSPAN_BASELINE to another file."
        ) from error


def load(path: Path) -> Baseline:
    """Read one.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    save_one = "Save one while the machine is as it should be: rowspan doctor --baseline save."
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        rates = {str(name): [float(rate) for rate in rates] for name, rates in held["rates"].items()}
        if not all(rate > 0 for samples in rates.values() for rate in samples) or not all(rates.values()):
            raise ValueError("a rate is missing, or not above 0")
        return Baseline(str(held["saved"]), str(held["model"]), dict(held["circumstances"]), rates)
    except FileNotFoundError:
        raise UsageError("There is no baseline yet.", why=f"{path} is missing.", fix=save_one) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"The baseline {path} cannot be read.", why=repr(error), fix=save_one) from None
