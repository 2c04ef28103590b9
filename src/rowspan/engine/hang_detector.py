"""Detects that a rank hangs: natively computing ranks count their progress in memory that the engine maps, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

LOOK_SECONDS = 0.5  # between two looks


class HangDetector:
    """Watches the ranks while a step is under way. Ranks that wait for a hanging one make no progress either; all ranks
    make about the same number of calls, which the counters hold above the tasks of a call, so the one that hangs has
    the smallest. A slow call does its tasks all the while, and is no hang.
    """

    def __init__(self, progress: Callable[[], Mapping[int, int]], patience: float) -> None:
        """Set what to watch. Args: progress: returns the ranks' progress counters; patience: seconds."""
        self.patience = patience
        self._progress = progress
        self._last: Mapping[int, int] = {}
        self.begin()

    def begin(self) -> None:
        """Note that a step is under way from now on."""
        self._since = time.monotonic()  # the counts are read when there is time to look

    def hangs(self) -> int | None:
        """The rank that has made no progress for too long, while no other rank has either; None if there is none."""
        progress = self._progress()
        if progress != self._last:
            self._last, self._since = progress, time.monotonic()
        if time.monotonic() - self._since < self.patience:
            return None
        return min(progress, key=progress.__getitem__)
