"""Shows a benchmark's progress on stderr: a bar with the time left in a terminal, a line for every change elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from rowspan.bench.run.rounds import RoundsProgress


class BenchProgress:
    """Shows progress for the length of a `with` block. In a terminal, rows that are printed meanwhile appear above the
    bar.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._last = ""
        if sys.stderr.isatty():
            columns = (
                MofNCompleteColumn(),
                BarColumn(24),
                TextColumn("{task.fields[left]:>10}"),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def show(self, turn: RoundsProgress) -> None:
        if self._bar is None:
            text = f"{min(turn.done + 1, turn.total)}/{turn.total} {turn.text}"
            if turn.text != self._last:
                print(text, file=sys.stderr, flush=True)
            self._last = turn.text
            return
        if not self._bar.tasks:
            self._bar.add_task("", total=turn.total, left="")
        left = "" if turn.seconds_left is None else f"{time_text(turn.seconds_left)} left"
        self._bar.update(self._bar.task_ids[0], completed=turn.done, description=turn.text, left=left)

    def __enter__(self) -> BenchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def time_text(seconds: float) -> str:
    """A number of seconds in readable form: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
