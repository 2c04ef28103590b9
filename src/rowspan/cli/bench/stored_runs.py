"""Finds stored results by the names that people give them: 17 is a row; r3, last and previous are runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowspan.errors import UsageError

if TYPE_CHECKING:
    from rowspan.bench.results.store import Store

WHICH = "A row's number, or a run: r3, last, previous."


def rows_of(store: Store, which: str) -> list[dict[str, Any]]:
    """One row, or all rows of a run.

    Raises:
        UsageError: there is no such row or run.
    """
    return [store.row(int(which))] if which.isdigit() else rows_of_run(store, which)


def rows_of_run(store: Store, which: str) -> list[dict[str, Any]]:
    """All rows of a run. Raises UsageError if there is no such run."""
    newest = store.new_run() - 1
    run = {"last": newest, "previous": newest - 1}.get(which)
    if run is None and which.startswith("r") and which[1:].isdigit():
        run = int(which[1:])
    if run is None:
        raise UsageError(f"{which!r} is neither a row nor a run.", fix=WHICH)
    rows = store.rows(run)
    if not rows:
        raise UsageError(
            f"There is no run r{run}.", fix="`rowspan compare` lists what there is; `rowspan bench` measures."
        )
    return rows
