"""The step plans of a workload: sequences of random tokens, their cache blocks numbered by hand."""

from __future__ import annotations

import random
from itertools import count

from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams, block_table

SEED = 0  # of the random tokens: the same in every configuration, and for every engine


def random_tokens(vocab_size: int, length: int, sequence: int = 0) -> list[int]:
    """The first tokens of one of the sequences that every engine is given."""
    return random.Random(SEED + sequence).choices(range(vocab_size), k=length)


class Steps:
    """Makes plans that compute any stretch of the sequences; what lies before it must be in the cache already."""

    def __init__(
        self, vocab_size: int, context_size: int, token_budget: int, block_size: int, sequences: int = 1
    ) -> None:
        """
        Args:
            context_size: length of each sequence, in tokens.
            token_budget: most tokens in one step.
            block_size: positions in a cache block.
            sequences: the most that are computed at once.
        """
        self._tokens = [random_tokens(vocab_size, context_size, number) for number in range(sequences)]
        self._token_budget = token_budget
        self._block_size = block_size
        self._blocks_each = -(-context_size // block_size)
        self._numbers = count()

    def prompt(self, start: int, length: int, sequences: int = 1) -> list[StepPlan]:
        """Steps of the token budget, one sequence after the other; only each one's last token gets logits."""
        stop, plans, chunks, room = start + length, [], [], self._token_budget
        for sequence in range(sequences if length else 0):
            first = start
            while first < stop:
                last = min(first + room, stop)
                chunks.append(self._chunk(sequence, first, last, samples=last == stop))
                room -= last - first
                first = last
                if not room:
                    plans.append(self._plan(chunks))
                    chunks, room = [], self._token_budget
        if chunks:
            plans.append(self._plan(chunks))
        return plans

    def generation(self, start: int, length: int, sequences: int = 1, parts: int = 1) -> list[StepPlan]:
        """One token of every sequence after the other, each followed by a greedy choice that is not used. The sequences
        are dealt out to so many parts, a step each."""
        return [
            self._plan([self._chunk(sequence, at, at + 1, samples=True) for sequence in range(part, sequences, parts)])
            for at in range(start, start + length)
            for part in range(parts)
        ]

    def _chunk(self, sequence: int, start: int, stop: int, *, samples: bool) -> Chunk:
        first = sequence * self._blocks_each
        blocks = block_table(range(first, first - (-stop // self._block_size)))
        return Chunk(sequence, tuple(self._tokens[sequence][start:stop]), start, blocks, samples)

    def _plan(self, chunks: list[Chunk]) -> StepPlan:
        number = next(self._numbers)
        return StepPlan(number, tuple(chunks), new=self.introductions() if number == 0 else ())

    def introductions(self) -> tuple[NewSequence, ...]:
        """Every sequence, as the first plan names it."""
        params = SamplingParams(temperature=0.0, seed=0)
        return tuple(
            NewSequence(number, tokens=(), prompt_length=0, params=params) for number in range(len(self._tokens))
        )
