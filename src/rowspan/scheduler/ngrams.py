"""Guesses what follows in a text from where its last tokens stood before: prompt lookup (Saxena 2023,
https://github.com/apoorvumang/prompt-lookup-decoding), over the text itself and others that ended lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

LEAST_MATCH = 3  # tokens that must have stood before, one behind the other
LONGEST_MATCH = 32  # tokens beyond which a longer match says nothing more
KEPT_ENDS = 16  # of each run
KEPT_TEXTS = 8  # of requests that have ended
MOST_KEPT_TOKENS = 100_000  # of these together
MOST_INDEXED = 50_000  # of a prompt's last tokens: some 200 bytes each


class Ngrams:
    """Where each run of `LEAST_MATCH` tokens of a text ended, the last few times."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self.tokens: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self.tokens += tokens[: max(0, len(tokens) - MOST_INDEXED)]
        self.extend(tokens[len(self.tokens) :])

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in the text's next tokens. Its last run is not known as one that has ended before."""
        for token in tokens:
            if len(self.tokens) >= LEAST_MATCH:
                ends = self._ends.setdefault(tuple(self.tokens[-LEAST_MATCH:]), [])
                ends.append(len(self.tokens))
                if len(ends) > KEPT_ENDS:
                    del ends[0]
            self.tokens.append(token)

    def place(self, last: Sequence[int]) -> tuple[int, int]:
        """The place in the text behind the longest occurrence of some last tokens, and how many of these are alike
        there: 0 if they have not occurred. Of equally long ones, the latest.
        """
        best = (0, 0)
        for end in reversed(self._ends.get(tuple(last[-LEAST_MATCH:]), ())):
            alike = self._alike(end, last)
            if alike > best[1]:
                best = (end, alike)
        return best

    def _alike(self, end: int, last: Sequence[int]) -> int:
        alike = LEAST_MATCH
        while alike < min(LONGEST_MATCH, len(last), end) and self.tokens[end - 1 - alike] == last[-1 - alike]:
            alike += 1
        return alike


class NgramProposer:
    """Proposes continuations of texts; keeps those of requests that ended lately, for the next ones."""

    def __init__(self) -> None:
        self._ended: deque[Ngrams] = deque()

    def propose(self, text: Ngrams, most: int) -> list[int]:
        """At most so many tokens that may follow a text: from the longest match, in the text itself before others."""
        last = text.tokens[-LONGEST_MATCH:]
        if most < 1 or len(last) < LEAST_MATCH:
            return []
        longest, guesses = 0, list[int]()
        for source in (text, *self._ended):
            place, alike = source.place(last)
            if alike > longest:
                longest, guesses = alike, source.tokens[place : place + most]
        return guesses

    def keep(self, text: Ngrams) -> None:
        """Remember the text of a request that has ended."""
        self._ended.appendleft(text)
        while len(self._ended) > KEPT_TEXTS or sum(len(kept.tokens) for kept in self._ended) > MOST_KEPT_TOKENS:
            self._ended.pop()
