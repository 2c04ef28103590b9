"""Which jobs are loaded. Those that are compared should run in turns, minutes apart at the most; that takes them all to
be loaded at once, or to be loaded again for every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil

from rowspan.bench.job import Job, Runner

MEMORY_SHARE = 0.8  # of what is free; the rest is for what was not foreseen


def fit_together(jobs: Sequence[Job]) -> bool:
    """Whether all may be loaded at once."""
    if len(jobs) == 1:
        return True
    needed = sum(job.memory_bytes for job in jobs)
    return not any(job.on_cards for job in jobs) and needed < MEMORY_SHARE * psutil.virtual_memory().available


class Pool:
    """Loads jobs as they are needed. Use it in a `with` block: it owns processes.

    together: keep them all.
    """

    def __init__(self, together: bool, on_load: Callable[[Job], None]) -> None:
        """
        Args:
            on_load: told before a job is loaded.
        """
        self._together = together
        self._on_load = on_load
        self._runners: dict[int, Runner] = {}

    def runner(self, job: Job) -> Runner:
        """It, loaded.

        Raises:
            RowspanError: it could not be loaded.
        """
        if id(job) not in self._runners:
            if not self._together:
                self.close()
            self._on_load(job)
            self._runners[id(job)] = job.start()
        return self._runners[id(job)]

    def holds(self, job: Job) -> bool:
        return id(job) in self._runners

    def close(self) -> None:
        while self._runners:
            self._runners.popitem()[1].close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
