"""What sampling needs to know of a sequence: its parameters and tokens, and what follows from them for the next one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rowspan.kernels.sampling import NOT_FINITE
from rowspan.scheduler.batch import Chunk, NewSequence, SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.logits_changes import LogitsChange
from rowspan.worker.logits_processors import LogitsProcessor, MakeProcessors, logits_processors


class TokenChoice(NamedTuple):
    """What one token is chosen by, beside logits."""

    params: SamplingParams
    changes: Sequence[LogitsChange]  # of the logits, in order
    uniform: float  # in [0, 1); 0 where nothing is drawn


@dataclass
class History:
    params: SamplingParams
    tokens: list[int]
    processors: Sequence[LogitsProcessor]
    length: int  # of the sequence, with tokens that have been chosen on a card and are not known here yet
    takes_likeliest: bool  # whatever else is known, and nobody asks how likely it is
    prompt_length: int = 0

    @classmethod
    def of(cls, sequence: NewSequence, processors: MakeProcessors = logits_processors) -> History:
        tokens, params, made = list(sequence.tokens), sequence.params, processors(sequence)
        takes_likeliest = params.temperature <= 0 and not made and params.logprobs is None and not params.needs_order
        return cls(params, tokens, made, len(tokens), takes_likeliest, sequence.prompt_length)

    def expect(self) -> None:
        """Note that one more token is being chosen."""
        self.length += 1

    def add(self, token: int) -> None:
        """It is known now, the oldest of those expected. After NOT_FINITE nothing follows in this sequence."""
        if token == NOT_FINITE:
            return
        self.tokens.append(token)
        self.length = max(self.length, len(self.tokens))
        for processor in self.processors:
            processor.accept(token)

    def roll_back(self, n_tokens: int) -> None:
        """Forget the last so many tokens. No tokens may be expected."""
        del self.tokens[len(self.tokens) - n_tokens :]
        self.length = len(self.tokens)
        for processor in self.processors:
            processor.roll_back(n_tokens)

    def at_each(self, chunk: Chunk) -> Iterator[None]:
        """Put the history, in turn, into the state in which each of the chunk's tokens is chosen, provided that the
        sequence goes on as the chunk does. Afterwards it is in the state it was in before.
        """
        known, first = self.tokens.copy(), _first_chosen(chunk)
        assert first <= len(known), "only the token after the first one it samples at may be unknown"
        self.roll_back(len(known) - first)
        for place in range(chunk.samples):
            if place:
                self.add(chunk.tokens[place - chunk.samples])
            yield
        self.roll_back(max(0, len(self.tokens) - len(known)))
        for token in known[len(self.tokens) :]:
            self.add(token)

    def accept(self, chunk: Chunk, chosen: Iterable[SampledToken]) -> list[SampledToken]:
        """Add chosen tokens to the history where it ends, as far as the chunk goes on with them.

        Args:
            chosen: one for each of the tokens that the chunk samples at.

        Returns:
            The chosen tokens that follow what is in the sequence.
        """
        followed = []
        goes_on = chunk.tokens[len(chunk.tokens) - chunk.samples + 1 :]
        for place, sampled in enumerate(chosen):
            position = _first_chosen(chunk) + place
            if position == len(self.tokens):
                self.add(sampled.token)
            followed.append(sampled)
            if sampled.token == NOT_FINITE or (place < len(goes_on) and self.tokens[position] != goes_on[place]):
                break
        return followed

    def choice(self, vocabulary: int) -> TokenChoice:
        """What the next token is chosen by."""
        uniform = self.uniform() if self.params.temperature > 0 else 0.0
        return TokenChoice(self.params, self.changes(vocabulary), uniform)

    def changes(self, vocabulary: int) -> list[LogitsChange]:
        """The changes that all processors make to the next token's logits, in order."""
        asked = [processor.change(vocabulary) for processor in self.processors]
        return [change for change in asked if change is not None]

    def uniform(self) -> float:
        """The random number in [0, 1) of the next token: a counter-based generator needs no state. This alone, and what
        processors change that do not need the last token, may be asked for while tokens are expected."""
        return float(self._generator().random())

    def uniforms(self) -> tuple[float, float]:
        """The same number, and another one."""
        generator = self._generator()
        return float(generator.random()), float(generator.random())

    def _generator(self) -> np.random.Generator:
        seed = self.params.seed
        assert seed is not None, "the engine gives every request a seed"
        return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=self.length))


def _first_chosen(chunk: Chunk) -> int:
    """Position, in the sequence, of the first token that the chunk's logits choose."""
    return chunk.position + len(chunk.tokens) - chunk.samples + 1
