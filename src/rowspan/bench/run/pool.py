"""Decides which jobs are loaded, and which of them may run. Jobs that are compared should take turns, minutes apart at
the most; for that all must be loaded at once, or each loaded again for every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from rowspan.bench.job import Job, Runner
from rowspan.bench.run.pause import Pauser

MEMORY_SHARE = 0.8  # share of free memory to use; the rest is reserve


def fit_together(jobs: Sequence[Job]) -> bool:
    """Whether all jobs may be loaded at once."""
    if len(jobs) == 1:
        return True
    needed = sum(job.memory_bytes for job in jobs)
    return not any(job.on_cards for job in jobs) and needed < MEMORY_SHARE * psutil.virtual_memory().available


@dataclass(frozen=True, order=True)
class Others:
    """How many engines with processes of their own are loaded beside the one whose turn it is. Values are ordered by
    how many of these run.
    """

    running: int = 0
    paused: int = 0


class Pool:
    """Loads jobs as they are needed. Use it in a `with` block: it owns processes.

    others: the other engines loaded beside the job that was asked for last.
    """

    def __init__(self, together: bool, tell: Callable[[str], None], *, pause_others: bool) -> None:
        """Set how jobs are kept.

        Args:
            together: keep all jobs loaded.
            tell: receives messages about what happens.
            pause_others: let only the job run whose turn it is.
        """
        self._together = together
        self._tell = tell
        self._pauser = Pauser() if pause_others else None
        self._runners: dict[int, tuple[Job, Runner]] = {}
        self._paused: set[int] = set()
        self.others = Others()

    def runner(self, job: Job) -> Runner:
        """Load a job if necessary, pause all others, and return its runner.

        Raises:
            RowspanError: it could not be loaded, or does not go on after its pause.
        """
        is_new, was_paused = not self.holds(job), id(job) in self._paused
        if is_new and not self._together:
            self.close()
        self._hold_others(job)
        if is_new:
            self._tell(f"{job.label}: loading")
            self._runners[id(job)] = job, job.start()
        runner = self._runners[id(job)][1]
        if was_paused:
            runner.rouse()
        return runner

    def holds(self, job: Job) -> bool:
        return id(job) in self._runners

    def drop(self, job: Job) -> None:
        """Unload a job that is no longer needed."""
        if self.holds(job):
            self._runners.pop(id(job))[1].close()

    def close(self) -> None:
        if self._pauser is not None:
            self._pauser.close()  # nothing that is paused ends when it is told to
        self._paused = set()
        while self._runners:
            self._runners.popitem()[1][1].close()

    def _hold_others(self, job: Job) -> None:
        others = [(other, runner.processes()) for other, runner in self._runners.values() if other is not job]
        running = [(other, roots) for other, roots in others if roots]
        self.others = Others(running=len(running))
        if self._pauser is None:
            return
        refused = self._pauser.hold(root for _, roots in running for root in roots)
        self._paused = set()
        for other, roots in running:
            if why := next((refused[root] for root in roots if root in refused), None):
                self._tell(f"{other.label} goes on beside {job.label}: {why}")
            else:
                self._paused.add(id(other))
        self.others = Others(len(running) - len(self._paused), len(self._paused))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
