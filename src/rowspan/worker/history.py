"""What sampling needs to know of a sequence: its parameters and tokens, and what follows from them for the next one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import SamplingParams

Tokens = NDArray[np.intp]
Changes = tuple[Tokens, NDArray[np.float32]]  # tokens, none twice, and what their logits change by


@dataclass
class History:
    params: SamplingParams
    tokens: list[int]
    generated: Counter[int]  # kept up for penalties
    length: int  # of the sequence, with tokens that have been chosen on a card and are not known here yet
    has_penalties: bool
    takes_likeliest: bool  # whatever else is known, and nobody asks how likely it is

    @classmethod
    def of(cls, sequence: NewSequence) -> History:
        tokens, params = list(sequence.tokens), sequence.params
        generated = Counter(tokens[sequence.prompt_length :])
        has_penalties = bool(params.logit_bias) or params.penalizes
        takes_likeliest = params.temperature <= 0 and not has_penalties and params.logprobs is None
        return cls(params, tokens, generated, len(tokens), has_penalties, takes_likeliest)

    def expect(self) -> None:
        """One more token is being chosen."""
        self.length += 1

    def add(self, token: int) -> None:
        """It is known now, the oldest of those expected."""
        self.tokens.append(token)
        if self.has_penalties:
            self.generated[token] += 1

    def bias(self, vocabulary: int) -> Changes | None:
        """Logit bias (OpenAI: added)."""
        biases = {token: bias for token, bias in self.params.logit_bias.items() if 0 <= token < vocabulary}
        return (_ids(biases), np.fromiter(biases.values(), np.float32)) if biases else None

    def repeated(self) -> Tokens | None:
        """Tokens that the repeat penalty (Keskar et al. 2019, section 4.1) is for."""
        params = self.params
        if params.repeat_penalty == 1.0 or not params.repeat_last_n or not self.tokens:
            return None
        return _ids(set(self.tokens if params.repeat_last_n < 0 else self.tokens[-params.repeat_last_n :]))

    def overused(self) -> Changes | None:
        """Frequency and presence penalties (OpenAI: times count, once if present), negated."""
        params = self.params
        if not self.generated or not (params.frequency_penalty or params.presence_penalty):
            return None
        counts = np.fromiter(self.generated.values(), np.float32)
        return _ids(self.generated), -(params.frequency_penalty * counts + params.presence_penalty)

    def uniform(self) -> float:
        """The random number in [0, 1) of the next token: a counter-based generator needs no state. This alone may be
        asked for while tokens are expected."""
        seed = self.params.seed
        assert seed is not None, "the engine gives every request a seed"
        return float(np.random.Generator(np.random.Philox(key=seed % 2**64, counter=self.length)).random())


def _ids(tokens: set[int] | dict[int, float] | Counter[int]) -> Tokens:
    return np.fromiter(tokens, np.intp)
