"""The guard: saves how fast this machine is, and tells after an upgrade whether it still is.

A baseline holds what a machine's speed depends on (driver, kernel, firmware, engine) and the rates of a short
benchmark.

The rule: a change counts if it is certain, as `rowspan.bench.results.change` defines it for any two sets of
repetitions, and larger than `LEAST_CHANGE`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rowspan.bench.engines.native_jobs import native_jobs
from rowspan.bench.grid import Grid, Workload
from rowspan.bench.results.change import Change, change
from rowspan.bench.run.rounds import Procedure, measure_jobs
from rowspan.config import EngineConfig
from rowspan.errors import RowspanError, UsageError
from rowspan.json_store import read_json, write_json
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.probe.rig import Rig

LEAST_CHANGE = 0.05  # processes differ by some percent from start to start, whatever their repetitions say
STEADY = 0.25  # if only changes above this share would count, "no change" says nothing
WORKLOADS = (Workload(256, 0), Workload(0, 32))
REPETITIONS = 7


@dataclass(frozen=True)
class Baseline:
    """A saved measurement.

    saved: when, in ISO 8601.
    model: fingerprint of the model's file.
    circumstances: what speed depends on, by name.
    rates: tokens per second of every repetition, by workload.
    """

    saved: str
    model: str
    circumstances: Mapping[str, str]
    rates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class WorkloadChange:
    """The change of one workload. before, after: medians in tokens per second. of: the change over all repetitions."""

    workload: str
    before: float
    after: float
    of: Change

    @property
    def change(self) -> float:
        """The change as a share of the earlier rate; 0 is no change."""
        return self.of.ratio - 1

    @property
    def threshold(self) -> float:
        """The share from which a change in this direction counts: a smaller one would leave "no change" in the
        interval.
        """
        reach = 1 - self.of.ratio / self.of.high if self.of.ratio <= 1 else self.of.ratio / self.of.low - 1
        return max(LEAST_CHANGE, round(reach, 6))

    @property
    def slower(self) -> bool:
        return self.of.certain and self.change < -LEAST_CHANGE

    @property
    def faster(self) -> bool:
        return self.of.certain and self.change > LEAST_CHANGE

    @property
    def verdict(self) -> str:
        """The verdict in words; "too unsteady to tell" is not "same"."""
        if self.slower:
            return "SLOWER"
        if self.faster:
            return "faster"
        return "same" if abs(self.change) <= self.threshold <= STEADY else "too unsteady to tell"


def circumstances(rig: Rig, engine_version: str) -> dict[str, str]:
    """The circumstances that a machine's speed depends on, by name."""
    facts = {"engine": engine_version, "kernel": rig.system.kernel, "processor": rig.cpu.model}
    for card in rig.cards:
        facts[f"{card.address} card"] = card.name
        facts[f"{card.address} driver"] = card.driver or "unknown"
        facts |= {f"{card.address} firmware {part}": version for part, version in card.firmware}
    return facts


Place = tuple[tuple[Device, ...], SplitMode]
"""Devices that a baseline is measured on, and how they share the model."""


def places(n_cards: int) -> list[Place]:
    """The processor, each card by itself, and all cards together in both ways: what an upgrade breaks is as often the
    way between cards as a card.
    """
    cards = [Device("cuda", index) for index in range(n_cards)]
    alone: list[Place] = [((device,), SplitMode.LAYER) for device in (Device("cpu", 0), *cards)]
    together: list[Place] = [(tuple(cards), mode) for mode in (SplitMode.LAYER, SplitMode.ROW)]
    return alone + (together if n_cards > 1 else [])


def place_name(place: Place) -> str:
    """Behind a workload's name; the processor alone has none, as in baselines of rigs without cards."""
    devices, mode = place
    named = ",".join(map(str, devices))
    return "" if named == "cpu:0" else f" {named}{f' {mode}' if len(devices) > 1 else ''}"


def measure(
    model: Path, sha256: str | None, n_cards: int, on_progress: Callable[[str], None]
) -> tuple[str, dict[str, list[float]]]:
    """The model's fingerprint, and rates by workload and place; takes some ten seconds a place with a small model. A
    place that cannot be measured is left out, and `on_progress` hears why.

    Raises:
        RowspanError: the model cannot be run on the processor.
    """
    found, rates = "", dict[str, list[float]]()
    for place in places(n_cards):
        devices, mode = place
        none = [None]
        grid = Grid([devices], [mode], [0], none, none, none, none, [EngineConfig.token_budget], none)
        try:
            jobs = native_jobs({model: sha256}, grid, WORKLOADS)
            rows = list(measure_jobs(jobs, WORKLOADS, Procedure(REPETITIONS), lambda told: on_progress(told.text)))
        except RowspanError as error:
            if not found:
                raise
            on_progress(f"{place_name(place).strip()} is not measured: {error}")
            continue
        found = rows[0]["model_fingerprint"]
        for workload, row in zip(WORKLOADS, rows, strict=True):
            rates[f"{workload.name}{place_name(place)}"] = row["samples_ts"]
    return found, rates


def changed(before: Baseline, after: Baseline) -> list[str]:
    """Sentences about the circumstances that differ."""
    names = sorted({*before.circumstances, *after.circumstances})
    values = ((name, *(side.circumstances.get(name, "absent") for side in (before, after))) for name in names)
    return [f"{name}: {was} → {now}" for name, was, now in values if was != now]


def compare(before: Baseline, after: Baseline) -> list[WorkloadChange]:
    """The changes of every workload that both baselines have.

    Raises:
        UsageError: the baselines are of different models, or share no workload.
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


def _compare(workload: str, before: Sequence[float], after: Sequence[float]) -> WorkloadChange:
    return WorkloadChange(workload, statistics.median(before), statistics.median(after), change(before, after))


def unsteady(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Workloads whose rates vary so much that they hardly allow a comparison."""
    return [name for name, samples in rates.items() if _compare(name, samples, samples).threshold > STEADY]


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline, whole or not at all.

    Raises:
        RowspanError: the folder cannot be written to.
    """
    try:
        write_json(path, asdict(baseline))
    except OSError as error:
        raise RowspanError(
            f"The baseline could not be written to {path}.", why=str(error), fix="Set ROWSPAN_BASELINE to another file."
        ) from error


def load(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    save_one = "Save one while the machine is as it should be: rowspan doctor --baseline save."
    try:
        held = read_json(path)
        rates = {str(name): [float(rate) for rate in rates] for name, rates in held["rates"].items()}
        if not all(rate > 0 for samples in rates.values() for rate in samples) or not all(rates.values()):
            raise ValueError("a rate is missing, or not above 0")
        return Baseline(str(held["saved"]), str(held["model"]), dict(held["circumstances"]), rates)
    except FileNotFoundError:
        raise UsageError("There is no baseline yet.", why=f"{path} is missing.", fix=save_one) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"The baseline {path} cannot be read.", why=repr(error), fix=save_one) from None
