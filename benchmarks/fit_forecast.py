"""Fits the forecast's constants to published results, checks them on rigs left out of the fit, writes both down.

    python benchmarks/fit_forecast.py           # compare with what is in the repository; exit code 1 if it differs
    python benchmarks/fit_forecast.py --write   # src/rowspan/plan/rigs/forecast.json and docs/forecast.md

Constants are logarithms, fitted together by regularized least squares (Gauss-Newton) to the logarithms of tokens per
second. Each has a prior: the general ones a wide one around what physics suggests, deviations of a family or an
architecture a narrow one around none, so that few measurements move them little. Nothing is set by hand for a row.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rowspan.plan.rigs.demand import ModelDemand, Run, demand_of
from rowspan.plan.rigs.forecast import DATA, Constants, family, prompt_seconds, token_seconds
from rowspan.plan.rigs.model_shapes import find_model
from rowspan.plan.rigs.outline import outline_of_spec
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.catalog.known_cards import find_card

FOLDER = Path(__file__).parent
PUBLISHED = FOLDER.parent / "src" / "rowspan" / "bench" / "report" / "published-results.csv"
PAGE = FOLDER.parent / "docs" / "forecast.md"
NOISE = {"tg": 0.10, "pp": 0.15}  # relative, of a published figure
PRIORS = {  # of a name's form: its centre, and how far it may be from there (log standard deviation)
    "read": (0.8, 0.3),
    "read/KIND": (1.0, 0.25),
    "read/KIND/FAMILY": (1.0, 0.15),
    "layer": (60e-6, 1.0),
    "layer/FAMILY": (1.0, 0.5),
    "layer/ARCH": (1.0, 0.3),
    "layer/old": (1.0, 0.3),
    "layer/vulkan": (1.0, 0.5),
    "hop": (200e-6, 1.0),
    "old_row": (150e-6, 1.0),
    "old_link": (1e9, 1.0),
    "compute": (0.2, 1.0),
    "compute/FAMILY": (1.0, 0.5),
    "compute/ARCH": (1.0, 0.3),
    "compute/old": (1.0, 0.3),
    "compute/old/ARCH": (1.0, 0.3),
    "compute/vulkan": (1.0, 0.7),
    "compute/float": (1.0, 0.5),
}
ROUNDS = 30
SMALL_STEP = 1e-5
INTERVAL = 0.8  # of measurements lie within
UNSEEN_LEAST = 1.25  # an interval for what was never measured is at least so much wider than for what was


@dataclass(frozen=True)
class Row:
    """A published result. Rates in tokens per second."""

    rig: str
    model: str
    quantization: str
    engine: str
    split: str
    build: str
    run: Run
    demand: ModelDemand
    measured: dict[str, tuple[int, float]]  # "pp", "tg" → tokens, rate

    def predicted(self, what: str, constants: Constants) -> float:
        tokens, _ = self.measured[what]
        if what == "tg":
            return 1 / token_seconds(self.demand, self.run, tokens / 2, constants)
        return tokens / prompt_seconds(self.demand, self.run, tokens, constants)

    def error(self, what: str, constants: Constants) -> float:
        """Logarithm of predicted over measured."""
        return math.log(self.predicted(what, constants) / self.measured[what][1])

    @cached_property
    def forms(self) -> dict[str, str]:
        """Names of the constants that bear on it, and the form of each."""
        holds = {
            "old": self.run.is_old,
            "vulkan": self.run.engine.endswith("Vulkan"),
            "float": not self.demand.is_quantized,
            "ARCH": bool(self.run.cards[0].arch),
        }
        forms = {}
        for form in PRIORS:
            if all(holds.get(level, True) for level in form.split("/")):
                for card in self.run.cards:
                    name = form.replace("KIND", card.memory_kind).replace("FAMILY", family(card))
                    forms[name.replace("ARCH", card.arch)] = form
        return forms


def read_rows() -> list[Row]:
    """Those that can be used."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return [_row(line) for line in csv.DictReader(file) if not line["left_out"]]


def _row(line: dict[str, str]) -> Row:
    card, count = find_card(line["card"]), int(line["count"])
    known = find_model(line["model"])
    assert known is not None, line["model"]
    measured = {
        what: (int(line[f"{what}_tokens"] or 128), float(line[f"{what}_ts"]))
        for what in ("pp", "tg")
        if line[f"{what}_ts"]
    }
    return Row(
        rig=f"{count}x{card.name}" if count > 1 else card.name,
        model=known.name,
        quantization=line["quantization"],
        engine=line["engine"],
        split=line["split"],
        build=line["build"],
        run=Run((card,) * count, SplitMode(line["split"]), line["engine"], is_old=line["build"] < "2025"),
        demand=demand_of(outline_of_spec(known.spec, line["quantization"])),
        measured=measured,
    )


def fit(rows: Sequence[Row], start: Constants | None = None) -> Constants:
    """The most likely constants, given these rows and the priors. start: where to begin; the end is the same."""
    forms: dict[str, str] = {}
    for row in rows:
        forms |= row.forms
    names = sorted(forms)
    centre = np.array([math.log(PRIORS[forms[name]][0]) for name in names])
    width = np.array([PRIORS[forms[name]][1] for name in names])
    pairs = [(row, what) for row in rows for what in row.measured]
    noise = np.array([NOISE[what] for _, what in pairs])

    def residuals(values: np.ndarray) -> np.ndarray:
        constants = Constants(dict(zip(names, values, strict=True)), {}, frozenset())
        errors = np.array([row.error(what, constants) for row, what in pairs])
        return np.concatenate([errors / noise, (values - centre) / width])

    begin = start.values if start else {}
    values = np.array([begin.get(name, middle) for name, middle in zip(names, centre, strict=True)])
    for _ in range(ROUNDS):
        here = residuals(values)
        slope = _slope(residuals, values, here)
        step = np.linalg.lstsq(slope, -here, rcond=None)[0]
        values = values + step
        if np.abs(step).max() < SMALL_STEP:
            break
    kinds = frozenset(card.arch for row in rows for card in row.run.cards)
    return Constants({name: float(value) for name, value in zip(names, values, strict=True)}, {}, kinds)


def _slope(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, here: np.ndarray) -> np.ndarray:
    step = 1e-5
    columns = [(function(at + step * unit) - here) / step for unit in np.eye(len(at))]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Check:
    """A row as it is predicted by a fit without its rig, or without any rig of its card."""

    row: Row
    what: str
    error: float  # log of predicted over measured
    is_seen: bool  # its architecture was in the fit all the same


def left_out(rows: Sequence[Row], group: Callable[[Row], str]) -> list[Check]:
    """Every row, as foretold by the rows of other groups."""
    checks = []
    whole = fit(rows)
    for name in dict.fromkeys(map(group, rows)):
        constants = fit([row for row in rows if group(row) != name], start=whole)
        for row in rows:
            if group(row) == name:
                seen = all(card.arch in constants.kinds for card in row.run.cards)
                checks += [Check(row, what, row.error(what, constants), seen) for what in row.measured]
    return checks


def spreads(checks: Sequence[Check]) -> dict[str, float]:
    """Half-widths of the intervals: of rigs left out, so that they hold for rigs that nobody has measured."""
    found = {}
    for what in ("tg", "pp"):
        seen = _quantile((check.error for check in checks if check.what == what and check.is_seen), INTERVAL)
        unseen = _quantile((check.error for check in checks if check.what == what and not check.is_seen), INTERVAL)
        found |= {f"{what}/seen": seen, f"{what}/unseen": max(unseen, seen * UNSEEN_LEAST)}
    return found


def _quantile(errors: Iterable[float], share: float) -> float:
    return float(np.quantile(np.abs(list(errors)), share))


def median_error(checks: Iterable[Check], what: str) -> float:
    """Relative, in either direction: |predicted / measured - 1|."""
    return float(np.median([abs(math.exp(check.error) - 1) for check in checks if check.what == what]))


def as_data(constants: Constants, spread: dict[str, float]) -> str:
    """forecast.json."""
    values = {name: round(value, 4) for name, value in constants.values.items()}
    data = {
        "about": "Logarithms of the forecast's constants, by benchmarks/fit_forecast.py; docs/forecast.md shows them.",
        "values": values,
        "spread": {name: round(value, 4) for name, value in spread.items()},
        "kinds": sorted(constants.kinds),
    }
    return json.dumps(data, indent=1) + "\n"


def main() -> int:
    """Fit, compare or write; the exit code."""
    parser = argparse.ArgumentParser(description="Fit the forecast's constants to published results.")
    parser.add_argument("--write", action="store_true", help="Write the constants and the page.")
    arguments = parser.parse_args()
    rows = read_rows()
    constants = fit(rows)
    by_rig = left_out(rows, lambda row: row.rig)
    data = as_data(constants, spreads(by_rig))
    if arguments.write:
        from forecast.page import page

        DATA.write_text(data, encoding="utf-8")
        PAGE.write_text(page(rows, constants, by_rig, left_out(rows, lambda row: row.run.cards[0].name)), "utf-8")
    for what in ("tg", "pp"):
        print(f"{what}: median error on rigs left out {median_error(by_rig, what):.1%}")
    return 0 if arguments.write or DATA.read_text(encoding="utf-8") == data else 1


if __name__ == "__main__":
    sys.exit(main())
