"""A logits processor for tests: a mask that changes with every token."""

from __future__ import annotations

import numpy as np

from rowspan.scheduler.batch import NewSequence
from rowspan.worker.logits_changes import AllowedTokens
from rowspan.worker.logits_processors import LogitsProcessor, logits_processors


class RandomMask:
    """Allows a tenth of all tokens, and always others: the sequence so far decides which."""

    needs_last_token = True

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self._tokens = list(tokens)

    def accept(self, token: int) -> None:
        self._tokens.append(token)

    def roll_back(self, n_tokens: int) -> None:
        del self._tokens[len(self._tokens) - n_tokens :]

    def change(self, vocabulary: int) -> AllowedTokens:
        return AllowedTokens(np.packbits(self.allowed(vocabulary), bitorder="little"))

    def allowed(self, vocabulary: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.random.default_rng([1, *self._tokens]).random(vocabulary) < 0.1


def masked_if_odd(sequence: NewSequence) -> list[LogitsProcessor]:
    """Every other sequence has a mask, after what its parameters ask for."""
    masks = [RandomMask(sequence.tokens)] if sequence.seq_id % 2 else []
    return [*logits_processors(sequence), *masks]
