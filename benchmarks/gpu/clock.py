"""Time: how much of it is left, and steps that may not take longer than they are given."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):
    """A step took longer than it was given."""


class Clock:
    """Runs from when it is made. minutes: the whole run's."""

    def __init__(self, minutes: float) -> None:
        self._began = time.monotonic()
        self._seconds = 60 * minutes

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds; negative once it is over."""
        return self._seconds - self.seconds


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread, wherever it waits, when a block takes longer. Blocks may not be nested."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"it took longer than the {max(seconds, 0):.0f} s that were left for it")

    if seconds <= 0:
        raise OutOfTime("no time was left for it")
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
