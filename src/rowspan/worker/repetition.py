"""Processors against repetition and for forbidden words, which look at more than single tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rowspan.scheduler.request import Dry
from rowspan.worker.logits_changes import Addition

LONGEST_MATCH = 128  # tokens beyond the allowed length: no penalty equals theirs, and longer matches cost seconds
MOST_PENALTY = 1e30  # float32 holds no more than 3e38


class DryPenalty:
    """Makes tokens less likely that would go on with a repetition: DRY, "don't repeat yourself", as llama.cpp has it
    (https://github.com/oobabooga/text-generation-webui/pull/5677). A token that would make a repetition of n tokens one
    longer loses multiplier · base^(n - allowed length).
    """

    needs_last_token = True

    def __init__(self, dry: Dry, tokens: Sequence[int]) -> None:
        """Args: tokens: of the sequence so far."""
        self._dry = dry
        self._tokens = list(tokens)

    def accept(self, token: int) -> None:
        self._tokens.append(token)

    def roll_back(self, n_tokens: int) -> None:
        del self._tokens[len(self._tokens) - n_tokens :]

    def change(self, vocabulary: int) -> Addition | None:
        lengths = {
            token: length
            for token, length in _repeated(self._window(), self._dry).items()
            if token < vocabulary and token not in self._dry.breakers
        }
        if not lengths:
            return None
        beyond = np.fromiter(lengths.values(), np.float64) - self._dry.allowed_length
        with np.errstate(over="ignore"):
            penalties = np.minimum(self._dry.multiplier * self._dry.base**beyond, MOST_PENALTY)
        return Addition(np.fromiter(lengths, np.intp), -penalties.astype(np.float32))

    def _window(self) -> list[int]:
        """The tokens to look at: the last ones."""
        return self._tokens[-self._dry.last_n :] if self._dry.last_n > 0 else self._tokens


def _repeated(tokens: Sequence[int], dry: Dry) -> dict[int, int]:
    """For each token that followed an earlier occurrence of the last tokens, how many of these occurred there."""
    since_breaker = next((n for n, token in enumerate(reversed(tokens)) if token in dry.breakers), len(tokens))
    longest = min(since_breaker, dry.allowed_length + LONGEST_MATCH)
    if len(tokens) <= dry.allowed_length or longest < dry.allowed_length or not longest:
        return {}
    array = np.array(tokens, np.int64)
    ends = np.flatnonzero(array[:-1] == array[-1])  # of earlier occurrences
    lengths = dict[int, int]()
    for n in range(1, longest + 1):  # ends of those that are at least n long
        if n >= dry.allowed_length:
            lengths.update(dict.fromkeys(array[ends + 1].tolist(), n))
        ends = ends[ends >= n]
        if n < len(array):
            ends = ends[array[ends - n] == array[-1 - n]]
        if not len(ends):
            break
    return lengths


class BadWords:
    """Forbids sequences of tokens, by forbidding the last of each where the others are there (vLLM)."""

    def __init__(self, words: Sequence[tuple[int, ...]], tokens: Sequence[int], prompt_length: int) -> None:
        """Args: words: none is empty. tokens: of the sequence so far, of which the first prompt_length do not count."""
        self._words = words
        self._tokens = list(tokens)
        self._prompt_length = prompt_length
        self.needs_last_token = any(len(word) > 1 for word in words)

    def accept(self, token: int) -> None:
        self._tokens.append(token)

    def roll_back(self, n_tokens: int) -> None:
        del self._tokens[len(self._tokens) - n_tokens :]

    def change(self, vocabulary: int) -> Addition | None:
        said = self._tokens[self._prompt_length :]
        forbidden = {
            last
            for *first, last in self._words
            if last < vocabulary and (not first or said[-len(first) :] == list(first))
        }
        if not forbidden or len(forbidden) == vocabulary:
            return None
        return Addition(np.array(sorted(forbidden), np.intp), np.full(len(forbidden), -np.inf, np.float32))
