"""What may change in a sequence's logits, as data: a few numbers, or a bit a token."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]  # of one sequence, (vocabulary,)
Tokens: TypeAlias = NDArray[np.intp]


class Addition(NamedTuple):
    """Numbers to add to some tokens' logits. No token twice."""

    tokens: Tokens
    values: NDArray[np.float32]

    def apply(self, logits: Logits) -> None:
        logits[self.tokens] += self.values


class Penalty(NamedTuple):
    """Tokens whose logits are divided by a factor where they are positive, else multiplied by it. No token twice."""

    tokens: Tokens
    factor: float

    def apply(self, logits: Logits) -> None:
        values = logits[self.tokens]
        logits[self.tokens] = np.where(values > 0, values / self.factor, values * self.factor)


class AllowedTokens(NamedTuple):
    """All tokens but these get a logit of minus infinity.

    bitmap: uint8, at least vocabulary / 8: token t may be chosen if bit t % 8 of byte t // 8 is set. So lie the 32-bit
    words of llguidance and XGrammar, too. At least one token is allowed.
    """

    bitmap: NDArray[np.uint8]

    def apply(self, logits: Logits) -> None:
        logits[np.unpackbits(self.bitmap, count=len(logits), bitorder="little") == 0] = -np.inf


LogitsChange = Addition | Penalty | AllowedTokens
