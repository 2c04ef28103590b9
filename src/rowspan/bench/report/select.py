"""Selects what a report shows: groups of rows that belong in one chart, named configurations, one row for each test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.results.repetitions import workload_of

Row = Mapping[str, Any]

# Fields that distinguish configurations, beside engine, split and devices.
OPTIONS = ("tensor_split", "main_gpu", "dtype", "type_k", "type_v", "flash_attn", "n_ubatch", "kernels")
SHORT = {"tensor_split": "ts", "main_gpu": "mg", "type_k": "K", "type_v": "V", "flash_attn": "fa", "n_ubatch": "ub"}


@dataclass(frozen=True)
class Configuration:
    """One engine with one set of options. name: what tells it from the others of its group. rows: by workload."""

    name: str
    rows: Mapping[Workload, Row]

    @property
    def engine(self) -> str:
        return str(self.any_row["engine"])

    @property
    def any_row(self) -> Row:
        return next(iter(self.rows.values()))

    def rate(self, workload: Workload) -> float | None:
        """Median tokens per second; None if it was not measured."""
        row = self.rows.get(workload)
        return None if row is None else float(row["median_ts"])


@dataclass(frozen=True)
class Section:
    """All configurations of one model that were measured on one machine."""

    model: str
    machine: str
    configurations: Sequence[Configuration]

    @property
    def workloads(self) -> list[Workload]:
        """All workloads: prompts first, then generation, each sorted by tokens, sequences and depth."""
        found = {workload for one in self.configurations for workload in one.rows}
        return sorted(found, key=lambda w: (bool(w.n_gen), w.n_prompt + w.n_gen, w.n_concurrent, w.n_depth))

    def headline(self, *, generation: bool) -> Workload | None:
        """The workload of one sequence without depth that most engines have, and of such the longest: what stands first
        on the page compares engines, and is steadier for being long.
        """
        fit = [
            w
            for w in self.workloads
            if bool(w.n_gen) == generation and bool(w.n_prompt) != generation and not w.n_depth and w.n_concurrent == 1
        ]

        def worth(workload: Workload) -> tuple[int, int, int]:
            rows = [one.rows[workload] for one in self.configurations if workload in one.rows]
            return len({row["engine"] for row in rows}), workload.n_prompt + workload.n_gen, len(rows)

        return max(fit, key=worth, default=None)

    def fastest(self, workload: Workload) -> Configuration | None:
        """The fastest configuration in one workload."""
        measured = [one for one in self.configurations if workload in one.rows]
        return max(measured, key=lambda one: one.rate(workload) or 0.0, default=None)


def sections(rows: Iterable[Row]) -> list[Section]:
    """Group rows by machine and model; if a test was measured twice, the last row counts."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        machine = ", ".join(filter(None, (row["gpu_info"], row["cpu_info"], row["kernel"])))
        groups.setdefault((_family(row), machine), []).append(row)
    return [Section(model, machine, _configurations(group)) for (model, machine), group in groups.items()]


def _configurations(rows: Sequence[Row]) -> list[Configuration]:
    varying = [name for name in OPTIONS if _varies(name, rows)]
    schemes = {_scheme(row) for row in rows}
    found: dict[str, dict[Workload, Row]] = {}
    for row in rows:
        found.setdefault(_name(row, varying, with_scheme=len(schemes) > 1), {})[workload_of(row)] = row
    return [Configuration(name, by_workload) for name, by_workload in found.items()]


def _name(row: Row, varying: Sequence[str], *, with_scheme: bool) -> str:
    parts = [row["engine"], row["split_mode"]]
    count = len(row["devices"].split("/"))
    if count > 1:
        parts.append(f"1 of {count}" if row["split_mode"] == "none" else f"{count} devices")
    if with_scheme:
        parts.append(_scheme(row))
    own = [name for name in varying if row[name] is not None]
    parts += [f"{SHORT[name]} {row[name]}" if name in SHORT else str(row[name]) for name in own]
    return " ".join(parts)


def _varies(name: str, rows: Sequence[Row]) -> bool:
    """Whether a field's values differ among rows of the same engine. Different engines use different words for the same
    option, which does not count.
    """
    values: dict[str, set[Any]] = {}
    for row in rows:
        values.setdefault(row["engine"], set()).add(row[name])
    return any(len(found) > 1 for found in values.values())


def _family(row: Row) -> str:
    return str(row["model_type"]).rpartition(" ")[0]


def _scheme(row: Row) -> str:
    return str(row["model_type"]).rpartition(" ")[2]
