"""Writes rows as they are measured, so that finished ones are kept whatever happens next."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from rowspan.bench.results.fields import FIELDS, SAMPLES
from rowspan.bench.results.markdown import Expected, Markdown

Row = Mapping[str, Any]


class Format(Protocol):
    """A way to write rows: `add` for each, then `finish`, also after an interruption. Every call flushes."""

    def add(self, row: Row) -> None: ...

    def finish(self) -> None: ...


class Json:
    """Writes an array of objects. The array is opened at once and closed by `finish` alone, so that an interruption
    between any two statements leaves it whole.
    """

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
    """Writes one object per line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, row: Row) -> None:
        print(json.dumps(row), file=self._out, flush=True)

    def finish(self) -> None:
        pass


class Csv:
    """Writes a line of field names, then the rows, without single samples."""

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
    """Writes statements for SQLite and others, for the table `llama_bench` as llama-bench does; without single
    samples.
    """

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


# Each takes the output and what the table is going to hold, which formats with all fields need not know.
FORMATS: Mapping[str, Callable[[TextIO, Expected], Format]] = {
    "md": Markdown,
    "json": lambda out, expected: Json(out),
    "jsonl": lambda out, expected: JsonLines(out),
    "csv": lambda out, expected: Csv(out),
    "sql": lambda out, expected: Sql(out),
}


def _without_samples(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in SAMPLES}


def _sql_value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"
