"""Shows downloads to people: by a bar in a terminal, by a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rowspan.cli.console_output import size_text
from rowspan.hub import ProgressSink

_PERCENT_STEP = 10
_SECONDS_STEP = 10.0


def terminal_progress() -> ProgressSink:
    """The progress display that suits stderr."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class BarProgress:
    """Shows bytes, speed and time left in a bar that is redrawn in place."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def start(self, label: str, total: int | None) -> None:
        # A finished task of unknown size tells nothing any more: clear its line.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=total is None,
        )
        self._bar.add_task(label, total=total)
        self._bar.start()

    def advance_to(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class LineProgress:
    """Prints a line at the start, then after every tenth of the file, or every ten seconds if the size is unknown."""

    def __init__(self, write: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self._clock = clock
        self._label = ""
        self._total: int | None = None
        self._step = 0

    def start(self, label: str, total: int | None) -> None:
        self._label, self._total = label, total
        self._started = self._clock()
        self._step = 0
        self._write(f"{label} ({size_text(total)})" if total else label)

    def advance_to(self, done: int) -> None:
        if self._total:
            step = done * 100 // self._total // _PERCENT_STEP
            text = f"{step * _PERCENT_STEP} %"
        else:
            step = int((self._clock() - self._started) / _SECONDS_STEP)
            text = size_text(done)
        if step > self._step:
            self._step = step
            self._write(f"{self._label}: {text}")

    def finish(self) -> None:
        self._label = ""
