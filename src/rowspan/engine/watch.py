"""Sees that a rank hangs: natively computing ranks count their work in memory that the engine maps, too."""

from __future__ import annotations

import time

from rowspan.comm.shared import SharedMemory

LOOK_SECONDS = 0.5  # between two looks


class Watch:
    """Over the ranks while a step is under way. Those that wait for one that hangs do nothing either; all do about the
    same number of calls, so the one that hangs has done least."""

    def __init__(self, memory: SharedMemory, n_ranks: int, patience: float) -> None:
        """Args: patience: seconds."""
        self.patience = patience
        self._memory = memory
        self._n_ranks = n_ranks
        self.begin()

    def begin(self) -> None:
        """A step is under way from now on."""
        self._last = self._memory.progress(self._n_ranks)
        self._since = time.monotonic()

    def hangs(self) -> int | None:
        """The rank that has done nothing for too long, while no other rank has either."""
        progress = self._memory.progress(self._n_ranks)
        if progress != self._last:
            self._last, self._since = progress, time.monotonic()
        if time.monotonic() - self._since < self.patience:
            return None
        return min(range(self._n_ranks), key=progress.__getitem__)
