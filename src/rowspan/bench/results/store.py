"""Keeps rows in an SQLite file with the table `llama_bench`, which other tools can read, too."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rowspan.bench.results.fields import FIELDS, NAMES, SAMPLES
from rowspan.errors import RowspanError, UsageError

TABLE = "llama_bench"


class Store:
    """An open result file. Rows are numbered from 1; so are runs, each of which is what one command measured. `add`
    writes at once, so that no row is lost with the process.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            RowspanError: it cannot be written, or is no result file.
        """
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30)
            self._database.row_factory = sqlite3.Row
            self._path = path
            self._extend()

    def new_run(self) -> int:
        """The number of the next run."""
        (last,) = self._database.execute(f"SELECT max(run_id) FROM {TABLE}").fetchone()
        return (last or 0) + 1

    def add(self, row: Mapping[str, Any]) -> int:
        """Store a row that has all fields, and return its number.

        Raises:
            RowspanError: the file cannot be written.
        """
        values = [json.dumps(row[name]) if name in SAMPLES and row[name] is not None else row[name] for name in NAMES]
        names, marks = ", ".join(NAMES), ", ".join("?" * len(NAMES))
        with _explained(self._path), self._database:
            number = self._database.execute(f"INSERT INTO {TABLE} ({names}) VALUES ({marks})", values).lastrowid
        assert number is not None
        return number

    def rows(self, run: int | None = None) -> list[dict[str, Any]]:
        """All rows, or one run's, oldest first; each with its number as `id`."""
        where, values = ("", ()) if run is None else (" WHERE run_id = ?", (run,))
        with _explained(self._path):
            found = self._database.execute(f"SELECT id, * FROM {TABLE}{where} ORDER BY id", values).fetchall()
        return [_read(row) for row in found]

    def row(self, number: int) -> dict[str, Any]:
        """The row of a number.

        Raises:
            UsageError: there is no such row.
        """
        with _explained(self._path):
            found = self._database.execute(f"SELECT id, * FROM {TABLE} WHERE id = ?", (number,)).fetchone()
        if found is None:
            raise UsageError(f"There is no row {number} in {self._path}.", fix="`rowspan compare` lists what there is.")
        return _read(found)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _extend(self) -> None:
        """Make the table, or add the columns that an older version's file lacks."""
        columns = ", ".join(f"{field.name} {field.type}" for field in FIELDS)
        with self._database:
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (id INTEGER PRIMARY KEY, {columns})")
            held = {row["name"] for row in self._database.execute(f"PRAGMA table_info({TABLE})")}
            if "id" not in held:
                raise sqlite3.DatabaseError(f"its table {TABLE} was made by another program")
            for field in FIELDS:
                if field.name not in held:
                    self._database.execute(f"ALTER TABLE {TABLE} ADD COLUMN {field.name} {field.type}")


def _read(row: sqlite3.Row) -> dict[str, Any]:
    values = dict(row)
    for name in SAMPLES:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return values


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise RowspanError(
            f"The store of results {path} cannot be used.",
            why=f"{error}.",
            fix="Set ROWSPAN_BENCH_DB to another file, or move this one away.",
        ) from error
