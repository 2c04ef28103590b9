"""Sees that a rank hangs: natively computing ranks count their work in memory that the engine maps, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

LOOK_SECONDS = 0.5  # between two looks


class HangDetector:
    """Over the ranks while a step is under way. Those that wait for one that hangs do nothing either; all do about the
    same number of calls, so the one that hangs has done least."""

    def __init__(self, progress: Callable[[], Mapping[int, int]], patience: float) -> None:
        """Args: progress: counts of the ranks' work; patience: seconds."""
        self.patience = patience
        self._progress = progress
        self._last: Mapping[int, int] = {}
        self.begin()

    def begin(self) -> None:
        """A step is under way from now on."""
        self._since = time.monotonic()  # the counts are read when there is time to look

    def hangs(self) -> int | None:
        """The rank that has done nothing for too long, while no other rank has either."""
        progress = self._progress()
        if progress != self._last:
            self._last, self._since = progress, time.monotonic()
        if time.monotonic() - self._since < self.patience:
            return None
        return min(progress, key=progress.__getitem__)
