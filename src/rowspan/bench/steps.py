"""The step plans of a workload: one sequence of random tokens, its cache blocks numbered by hand."""

from __future__ import annotations

import random
from itertools import count

from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams

SEED = 0  # of the random tokens: the same in every configuration
SEQUENCE = NewSequence(seq_id=0, tokens=(), prompt_length=0, params=SamplingParams(temperature=0.0, seed=0))


class Steps:
    """Makes plans that compute any stretch of the sequence; what lies before it must be in the cache already."""

    def __init__(self, vocab_size: int, context_size: int, token_budget: int, block_size: int) -> None:
        """
        Args:
            context_size: length of the sequence, in tokens.
            token_budget: most tokens in one step.
            block_size: positions in a cache block.
        """
        self._tokens = random.Random(SEED).choices(range(vocab_size), k=context_size)
        self._token_budget = token_budget
        self._block_size = block_size
        self._numbers = count()

    def prompt(self, start: int, length: int) -> list[StepPlan]:
        """Steps of the token budget; only the last token gets logits."""
        stop, budget = start + length, self._token_budget
        return [
            self._plan(first, min(first + budget, stop), samples=first + budget >= stop)
            for first in range(start, stop, budget)
        ]

    def generation(self, start: int, length: int) -> list[StepPlan]:
        """Steps of one token, each followed by a greedy choice that is not used."""
        return [self._plan(position, position + 1, samples=True) for position in range(start, start + length)]

    def _plan(self, start: int, stop: int, *, samples: bool) -> StepPlan:
        blocks = tuple(range(-(-stop // self._block_size)))
        chunk = Chunk(SEQUENCE.seq_id, tuple(self._tokens[start:stop]), start, blocks, samples)
        number = next(self._numbers)
        return StepPlan(number, (chunk,), new=(SEQUENCE,) if number == 0 else ())
