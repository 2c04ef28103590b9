"""Writes rows as they are measured, so that what is done is kept whatever happens next."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rowspan.bench.fields import FIELDS, SAMPLES
from rowspan.bench.results import workload_of
from rowspan.plan.explain import memory_text

Row = Mapping[str, Any]


class Format(Protocol):
    """One way to write rows: `add` for each, then `finish`, also after an interruption. Every call flushes."""

    def add(self, row: Row) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Column:
    """A column of the Markdown table. right: numbers are set flush right."""

    title: str
    width: int
    cell: Callable[[Row], str]
    right: bool = False

    def set(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)

    @property
    def rule(self) -> str:
        return "-" * (self.width - 1) + ":" if self.right else "-" * self.width


LEADING = (
    Column("model", 22, lambda row: row["model_type"]),
    Column("size", 9, lambda row: memory_text(row["model_size"]), right=True),
    Column("engine", 11, lambda row: row["engine"]),
    Column("sm", 5, lambda row: row["split_mode"]),
    Column("devices", 11, lambda row: row["devices"]),
)
OPTIONAL = {  # shown where they are asked for, by field
    "tensor_split": Column("ts", 9, lambda row: row["tensor_split"]),
    "main_gpu": Column("mg", 2, lambda row: str(row["main_gpu"]), right=True),
    "dtype": Column("dtype", 8, lambda row: row["dtype"] or ""),
    "type_k": Column("type_k", 6, lambda row: row["type_k"]),
    "type_v": Column("type_v", 6, lambda row: row["type_v"]),
    "flash_attn": Column("fa", 2, lambda row: str(row["flash_attn"]), right=True),
    "n_ubatch": Column("n_ubatch", 8, lambda row: str(row["n_ubatch"]), right=True),
    "check_equal": Column("as one device", 22, lambda row: _check_text(row)),
    "n_threads": Column("threads", 7, lambda row: str(row["n_threads"]), right=True),
}
TRAILING = (
    Column("test", 16, lambda row: workload_of(row).name, right=True),
    Column("t/s", 17, lambda row: f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}", right=True),
    Column(
        "of ceiling", 10, lambda row: "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}", right=True
    ),
)


class Markdown:
    """A table for people and pull requests.

    Args:
        optional: keys of `OPTIONAL` to show.
    """

    def __init__(self, out: TextIO, optional: Sequence[str] = ()) -> None:
        self._out = out
        self._columns = (*LEADING, *(OPTIONAL[name] for name in OPTIONAL if name in optional), *TRAILING)
        self._seen: dict[str, Row] = {}  # the last row of each engine

    def add(self, row: Row) -> None:
        if not self._seen:
            self._write(column.set(column.title) for column in self._columns)
            self._write(column.rule for column in self._columns)
        self._write(column.set(column.cell(row)) for column in self._columns)
        self._seen[row["engine"]] = row

    def finish(self) -> None:
        if self._seen:
            engines = ", ".join(f"{engine} {row['engine_version']}" for engine, row in self._seen.items())
            machine = next(iter(self._seen.values()))
            devices = ", ".join(filter(None, (machine["cpu_info"], machine["gpu_info"])))
            print(f"\n{engines}; {devices}", file=self._out, flush=True)

    def _write(self, cells: Iterable[str]) -> None:
        print("| " + " | ".join(cells) + " |", file=self._out, flush=True)


class Json:
    """An array of objects. It is opened at once and closed by `finish` alone, so that an interruption between any two
    statements leaves it whole."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._separator = ""
        print("[", end="", file=out, flush=True)

    def add(self, row: Row) -> None:
        print(self._separator, json.dumps(row, indent=2), sep="\n", end="", file=self._out, flush=True)
        self._separator = ","

    def finish(self) -> None:
        print("\n]", file=self._out, flush=True)


class JsonLines:
    """An object in every line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, row: Row) -> None:
        print(json.dumps(row), file=self._out, flush=True)

    def finish(self) -> None:
        pass


class Csv:
    """A line of field names, then the rows; without single samples."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        self._started = False

    def add(self, row: Row) -> None:
        flat = _without_samples(row)
        if not self._started:
            self._writer.writerow(flat)
            self._started = True
        self._writer.writerow(flat.values())
        self._out.flush()

    def finish(self) -> None:
        pass


class Sql:
    """Statements for SQLite and others; table `llama_bench`, as llama-bench's own; without single samples."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = False

    def add(self, row: Row) -> None:
        flat = _without_samples(row)
        if not self._started:
            fields = ",\n".join(f"  {field.name} {field.type}" for field in FIELDS if field.name in flat)
            print(f"CREATE TABLE IF NOT EXISTS llama_bench (\n{fields}\n);\n", file=self._out)
            self._started = True
        names, values = ", ".join(flat), ", ".join(map(_sql_value, flat.values()))
        print(f"INSERT INTO llama_bench ({names}) VALUES ({values});", file=self._out, flush=True)

    def finish(self) -> None:
        pass


# Each takes where to write, and the keys of OPTIONAL to show; formats that hold every field anyway ignore these.
FORMATS: Mapping[str, Callable[[TextIO, Sequence[str]], Format]] = {
    "md": Markdown,
    "json": lambda out, optional: Json(out),
    "jsonl": lambda out, optional: JsonLines(out),
    "csv": lambda out, optional: Csv(out),
    "sql": lambda out, optional: Sql(out),
}


def _check_text(row: Row) -> str:
    """Tokens that are as on a single device, and how far log-probabilities are off."""
    if row["check_equal"] is None:
        return ""
    return f"{row['check_equal']}/{row['check_tokens']}, Δ {row['check_logprob']:.1e}"


def _without_samples(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in SAMPLES}


def _sql_value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"
