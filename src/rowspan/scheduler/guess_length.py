"""How many tokens to guess: as many as pay, by how often guesses were right and what steps have cost.

With k guesses, each right with probability a if those before it were, a step brings (1 - a^(k+1)) / (1 - a) tokens on
average (Leviathan et al. 2023, arXiv 2211.17192, equation 1), and takes as long as steps of so many tokens took.
"""

from __future__ import annotations

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
WORTH = 1.05  # a gain below 5 % is not worth the uncertainty of the estimates
FORGET = 0.9  # share of what is known that is kept with each step of guesses
SLOWLY = 0.97  # with each step without any: after some 50 of these guessing is tried again
WEIGHT = 0.2  # of a step's time in the average of those of its size
FIRST_GUESS = 0.03  # what each further token adds to a step's time, as a share of it, where nothing has been measured


class StepTimes:
    """Seconds that steps of so many tokens take, as measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, tokens: int, seconds: float) -> None:
        before = self._seconds.get(tokens)
        self._seconds[tokens] = seconds if before is None else before + WEIGHT * (seconds - before)

    def ratio(self, tokens: int, base: int) -> float:
        """How much longer a step of `tokens` takes than one of `base`."""
        return self._of(tokens) / self._of(base)

    def _of(self, tokens: int) -> float:
        known = sorted(self._seconds)
        if not known:
            return 1.0 + FIRST_GUESS * tokens
        below = max((size for size in known if size <= tokens), default=known[0])
        above = min((size for size in known if size >= tokens), default=known[-1])
        if below < tokens < above:
            share = (tokens - below) / (above - below)
            return self._seconds[below] * (1 - share) + self._seconds[above] * share
        nearest = below if below <= tokens else above
        return self._seconds[nearest] * (1 + FIRST_GUESS * max(0, tokens - nearest))


class Accuracy:
    """How often one request's guesses are right; at first, as often as not."""

    def __init__(self) -> None:
        self._right = 0.0
        self._tried = 0.0

    @property
    def share(self) -> float:
        return (self._right + 1) / (self._tried + 2)

    def note(self, right: int, guessed: int) -> None:
        """right: of the guesses, up to the first wrong one."""
        self._right = self._right * FORGET + right
        self._tried = self._tried * FORGET + right + (right < guessed)

    def note_none(self) -> None:
        """A step without guesses, although there was something to guess."""
        self._right *= SLOWLY
        self._tried *= SLOWLY


def best_length(accuracy: Accuracy, times: StepTimes, others: int, most: int) -> int:
    """The number of guesses that brings most tokens a second; 0 if none pays.

    Args:
        others: further tokens in the step.
        most: guesses at most.
    """
    share = min(accuracy.share, 0.999)
    best, best_gain = 0, WORTH
    for length in LENGTHS:
        if 0 < length <= most:
            tokens = (1 - share ** (length + 1)) / (1 - share)
            gain = tokens / times.ratio(others + 1 + length, others + 1)
            if gain > best_gain:
                best, best_gain = length, gain
    return best
