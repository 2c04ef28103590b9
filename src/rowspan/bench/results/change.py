"""How much faster one set of repetitions is than another, and how sure that is.

The estimate is Hodges' and Lehmann's: the median of all ratios between a repetition of one set and one of the other.
Its interval is the one that belongs to the test of Mann and Whitney, exact for any number of repetitions: nothing is
assumed about how rates are distributed, and single slow repetitions do not move it (Hodges, Lehmann 1963). Few
repetitions cannot give much confidence: the interval says how much it has, and is the widest possible one if 95 % is
out of reach.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Change:
    """The ratio of the second set's rates to the first's; 1 is no change. low, high: its interval. confidence: that of
    the interval, 0 to 1.
    """

    ratio: float
    low: float
    high: float
    confidence: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes "no change" and has the confidence that was asked for."""
        return self.confidence >= CONFIDENCE and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{self.ratio - 1:+.1%} ({self.low - 1:+.1%} to {self.high - 1:+.1%}, {self.confidence:.0%} confidence)"


def change(before: Sequence[float], after: Sequence[float]) -> Change:
    """Compare two sets of rates above 0, at least one rate in each."""
    ratios = sorted(new / old for new in after for old in before)
    cut = _cut(len(before), len(after))
    outside = 2 * sum(_counts(len(before), len(after))[:cut]) / math.comb(len(before) + len(after), len(before))
    lowest = max(cut - 1, 0)
    return Change(statistics.median(ratios), ratios[lowest], ratios[len(ratios) - 1 - lowest], 1 - outside)


def _cut(n: int, m: int) -> int:
    """The position of the interval's ends: the cut-th smallest and the cut-th largest ratio. 1 is the widest
    interval.
    """
    total, counts = math.comb(n + m, n), _counts(n, m)
    cut, tail = 1, counts[0]
    while cut < len(counts) // 2 and 2 * (tail + counts[cut]) <= (1 - CONFIDENCE) * total:
        tail += counts[cut]
        cut += 1
    return cut


@lru_cache(maxsize=64)
def _counts(n: int, m: int) -> tuple[int, ...]:
    """For 0, 1, … inverted pairs of the n·m, the number of orders of n and m values that have exactly so many."""
    if not n or not m:
        return (1,)
    total = [0] * (n * m + 1)
    for shift, counts in ((m, _counts(n - 1, m)), (0, _counts(n, m - 1))):  # the largest value is one of n, or one of m
        for number, count in enumerate(counts):
            total[number + shift] += count
    return tuple(total)
