"""Estimates how long a benchmark will still take, from the time that its turns have taken so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

from rowspan.bench.grid import Workload


class TimeLeft:
    """Learns seconds per turn. A turn that has not been seen is taken to last as long as the same workload with other
    jobs; if that has not been seen either, as long per token as others of its kind.
    """

    def __init__(self, turns: Iterable[tuple[Hashable, Workload]]) -> None:
        self._left = Counter(turns)
        self._means: dict[Hashable, _Mean] = defaultdict(_Mean)

    def note(self, job: Hashable, workload: Workload, seconds: float) -> None:
        """Record how long a turn took."""
        self._left[job, workload] -= 1
        for key in ((job, workload), workload):
            self._means[key].add(seconds)
        self._means[bool(workload.n_gen)].add(seconds / _tokens(workload))

    def seconds(self) -> float | None:
        """Seconds for the turns that are left; None as long as nothing is known."""
        if not self._means:
            return None
        return sum(number * self._one(job, workload) for (job, workload), number in self._left.items() if number)

    def _one(self, job: Hashable, workload: Workload) -> float:
        for key in ((job, workload), workload):
            if key in self._means:
                return self._means[key].value
        kind = bool(workload.n_gen)
        return _tokens(workload) * self._means[kind if kind in self._means else not kind].value


class _Mean:
    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, value: float) -> None:
        self._total += value
        self._count += 1

    @property
    def value(self) -> float:
        return self._total / self._count


def _tokens(workload: Workload) -> int:
    return workload.n_tokens + workload.n_depth
