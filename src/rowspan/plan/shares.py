"""Checks the shares that devices are given, and divides whole units by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from rowspan.errors import SplitError

LARGEST_SPREAD = 1e6  # largest ratio between the shares of two devices


def apportion(units: int, shares: Sequence[float]) -> list[int]:
    """Divide whole units by shares: largest remainder, ties to the lower index. Arithmetic is exact, so that ties are
    found.
    """
    total = sum(map(Fraction, shares))
    quotas = [units * Fraction(share) / total for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - quotas[i])
    for index in by_remainder[: units - sum(counts)]:
        counts[index] += 1
    return counts


def check_ratios(ratios: Sequence[float], n_devices: int) -> None:
    """Raise SplitError unless the ratios are valid shares for so many devices."""
    if len(ratios) != n_devices:
        raise SplitError(
            f"--tensor-split has {len(ratios)} shares for {n_devices} devices.",
            fix="Give one share per device, such as --devices cpu:0,cpu:1 --tensor-split 3,1.",
        )
    if any(not math.isfinite(ratio) or ratio <= 0 for ratio in ratios):
        raise SplitError(
            "--tensor-split must hold positive numbers.",
            fix="To leave a device out, do not name it in --devices.",
        )
    if max(ratios) > LARGEST_SPREAD * min(ratios):
        raise SplitError(
            "The shares of --tensor-split are too far apart.",
            why=f"The smallest of {', '.join(map(str, ratios))} would hold nothing.",
            fix="To leave a device out, do not name it in --devices.",
        )
