"""Sees that a rank hangs: natively computing ranks count their work in memory that the engine maps, too."""

from __future__ import annotations

import time

from rowspan.comm.shared import SharedMemory

HANG_SECONDS = 10.0
"""A rank that does nothing for so long hangs. A single call of a 70B model's step on a slow CPU takes some 5 s."""
LOOK_SECONDS = 0.5


class Watch:
    """Over the ranks while a step is under way. Those that wait for one that hangs do nothing either; all do about the
    same number of calls, so the one that hangs has done least."""

    def __init__(self, memory: SharedMemory, n_ranks: int) -> None:
        self._memory = memory
        self._n_ranks = n_ranks
        self.begin()

    def begin(self) -> None:
        """A step is under way from now on."""
        self._last = self._memory.progress(self._n_ranks)
        self._since = time.monotonic()

    def hangs(self) -> int | None:
        """The rank that has done nothing for `HANG_SECONDS`, while no other rank has either."""
        progress = self._memory.progress(self._n_ranks)
        if progress != self._last:
            self._last, self._since = progress, time.monotonic()
        if time.monotonic() - self._since < HANG_SECONDS:
            return None
        return min(range(self._n_ranks), key=progress.__getitem__)
