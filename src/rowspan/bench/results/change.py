"""How much faster one set of repetitions is than another, and how sure that is.

The estimate is Hodges' and Lehmann's: the median of all ratios between a repetition of one and one of the other. Its
interval is the one that belongs to the test of Mann and Whitney, exact for any number of repetitions: nothing is
supposed about how rates are distributed, and single slow repetitions do not move it (Hodges, Lehmann 1963). Few of them
cannot give much confidence: the interval says how much it has, and is the widest there is where 95 % is out of reach.
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
    """Rates of the second set over those of the first; 1 is no change. confidence: of the interval, 0 to 1."""

    ratio: float
    low: float
    high: float
    confidence: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves "no change" out, and is what was asked of it."""
        return self.confidence >= CONFIDENCE and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{self.ratio - 1:+.1%} ({self.low - 1:+.1%} to {self.high - 1:+.1%}, {self.confidence:.0%} confidence)"


def change(before: Sequence[float], after: Sequence[float]) -> Change:
    """From rates above 0, at least one of each."""
    ratios = sorted(new / old for new in after for old in before)
    cut = _cut(len(before), len(after))
    outside = 2 * sum(_counts(len(before), len(after))[:cut]) / math.comb(len(before) + len(after), len(before))
    lowest = max(cut - 1, 0)
    return Change(statistics.median(ratios), ratios[lowest], ratios[len(ratios) - 1 - lowest], 1 - outside)


def _cut(n: int, m: int) -> int:
    """How many of the smallest and of the largest ratios may lie outside; at least 1, the widest interval there is."""
    total, counts = math.comb(n + m, n), _counts(n, m)
    cut, tail = 1, counts[0]
    while cut < len(counts) // 2 and 2 * (tail + counts[cut]) <= (1 - CONFIDENCE) * total:
        tail += counts[cut]
        cut += 1
    return cut


@lru_cache(maxsize=64)
def _counts(n: int, m: int) -> tuple[int, ...]:
    """In how many of all orders of n and m values exactly 0, 1, … of the n·m pairs are the other way round."""
    if not n or not m:
        return (1,)
    total = [0] * (n * m + 1)
    for shift, counts in ((m, _counts(n - 1, m)), (0, _counts(n, m - 1))):  # the largest value is one of n, or one of m
        for number, count in enumerate(counts):
            total[number + shift] += count
    return tuple(total)
