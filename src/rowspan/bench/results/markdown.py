"""Writes rows as a Markdown table, for people, terminals and pull requests.

What is the same in every row is said once, above the table, so that the table fits a terminal: it has 100 columns if
model, engine, split and devices all differ.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rowspan.bench.results.fields import complete
from rowspan.bench.results.repetitions import workload_of
from rowspan.plan.explain import memory_text

Row = Mapping[str, Any]
WIDTH = 100  # width of the text around the table


@dataclass(frozen=True)
class Expected:
    """The contents of a table, known before its first row.

    optional: keys of `OPTIONAL` to show.
    jobs: the fields that the rows of each job will have.
    tests: names of the workloads.
    """

    optional: Sequence[str]
    jobs: Sequence[Row]
    tests: Sequence[str]


@dataclass(frozen=True)
class Column:
    """A column of the table. right: align to the right, as numbers are."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


@dataclass(frozen=True)
class _Sized:
    """A column with the width of its widest cell."""

    column: Column
    width: int

    def set(self, text: str) -> str:
        return text.rjust(self.width) if self.column.right else text.ljust(self.width)

    @property
    def rule(self) -> str:
        return "-" * (self.width - 1) + ":" if self.column.right else "-" * self.width


def _field(name: str, title: str | None = None, *, right: bool = False) -> Column:
    return Column(title or name, lambda row: "" if row[name] is None else str(row[name]), right)


def _check_text(row: Row) -> str:
    """How many tokens agree with a single device's, and how far log-probabilities are off."""
    if row["check_equal"] is None:
        return ""
    return f"{row['check_equal']}/{row['check_tokens']}, Δ {row['check_logprob']:.1e}"


def _rate_text(row: Row) -> str:
    digits = 2 if row["avg_ts"] < 1000 else 1 if row["avg_ts"] < 10_000 else 0
    return f"{row['avg_ts']:.{digits}f} ± {row['stddev_ts']:.{digits}f}"


MODEL = _field("model_type", "model")
LEADING = (MODEL, _field("engine"), _field("split_mode", "sm"), _field("devices"))
OPTIONAL = {  # columns that are shown if asked for, by field
    "tensor_split": _field("tensor_split", "ts"),
    "main_gpu": _field("main_gpu", "mg", right=True),
    "n_gpu_layers": _field("n_gpu_layers", "ngl", right=True),
    "dtype": _field("dtype"),
    "type_k": _field("type_k"),
    "type_v": _field("type_v"),
    "flash_attn": _field("flash_attn", "fa", right=True),
    "n_batch": _field("n_batch", right=True),
    "n_ubatch": _field("n_ubatch", right=True),
    "check_equal": Column("as one device", _check_text),
    "n_threads": _field("n_threads", "threads", right=True),
}
TEST = Column("test", lambda row: workload_of(row).name, right=True)
MEASURED = (  # columns known row by row only, with their greatest widths
    _Sized(Column("t/s", _rate_text, right=True), 16),
    _Sized(
        Column(
            "ceiling", lambda row: "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}", right=True
        ),
        7,
    ),
)


class Markdown:
    """The `rowspan.bench.results.formats.Format` that writes Markdown."""

    def __init__(self, out: TextIO, expected: Expected) -> None:
        self._out = out
        self._jobs = [complete(fields) for fields in expected.jobs]
        described = (*LEADING, *(OPTIONAL[name] for name in OPTIONAL if name in expected.optional))
        cells = {column: list(dict.fromkeys(map(column.cell, self._jobs))) for column in described}
        self._alike = [column for column in described if len(cells[column]) == 1]
        varying = [_sized(column, cells[column]) for column in described if len(cells[column]) > 1]
        self._columns = (*varying, _sized(TEST, expected.tests), *MEASURED)
        self._seen: dict[str, Row] = {}  # the last row of each engine

    def add(self, row: Row) -> None:
        if not self._seen:
            self._say(", ".join(self._same()))
            print(file=self._out)
            self._write(each.set(each.column.title) for each in self._columns)
            self._write(each.rule for each in self._columns)
        self._write(each.set(each.column.cell(row)) for each in self._columns)
        self._seen[row["engine"]] = row

    def finish(self) -> None:
        if self._seen:
            engines = ", ".join(f"{engine} {row['engine_version']}" for engine, row in self._seen.items())
            machine = next(iter(self._seen.values()))
            print(file=self._out)
            self._say(f"{engines}; {', '.join(filter(None, (machine['cpu_info'], machine['gpu_info'])))}")

    def _same(self) -> Iterable[str]:
        """Lines that state what all rows have in common, and how large the models are."""
        first = self._jobs[0]
        if MODEL not in self._alike:
            yield from dict.fromkeys(f"{MODEL.cell(job)}: {memory_text(job['model_size'])}" for job in self._jobs)
        for column in self._alike:
            if text := column.cell(first):
                yield f"{column.title}: {text}" + (f" ({memory_text(first['model_size'])})" * (column is MODEL))

    def _say(self, text: str) -> None:
        print(textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False), file=self._out, flush=True)

    def _write(self, cells: Iterable[str]) -> None:
        print("| " + " | ".join(cells) + " |", file=self._out, flush=True)


def _sized(column: Column, cells: Iterable[str]) -> _Sized:
    return _Sized(column, max(map(len, (column.title, *cells))))
