"""Makes a workload's step plans: sequences of random tokens, with cache blocks numbered by hand."""

from __future__ import annotations

import random
from array import array
from itertools import count

from rowspan.kvcache.groups import CacheLayout
from rowspan.kvcache.tables import block_table
from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams

SEED = 0  # seed of the random tokens, the same for all configurations and engines


def random_tokens(vocab_size: int, length: int, sequence: int = 0) -> list[int]:
    """The first tokens of one of the random sequences that every engine is given."""
    return random.Random(SEED + sequence).choices(range(vocab_size), k=length)


def numbered_blocks(layout: CacheLayout, context_size: int, sequence: int, n_tokens: int) -> array[int]:
    """Tables, as chunks have them, of a sequence that owns as many blocks of each group's pool as it may need, behind
    those of the sequences before it. In groups of a window it uses them again and again: there, what lies before a
    stretch is overwritten by it, and is another's when the stretch is computed once more, in the same time."""
    n_blocks, context_blocks = layout.blocks_for(n_tokens), layout.blocks_for(context_size)
    tables = block_table()
    for group in layout.groups:
        own = min(context_blocks, layout.most_held(group) or context_blocks)
        blocks = block_table(range(sequence * own, sequence * own + own))
        tables += (blocks * -(-n_blocks // own))[:n_blocks]
    return tables


class Steps:
    """Makes plans that compute any stretch of the sequences; tokens before the stretch must be in the cache already."""

    def __init__(
        self, vocab_size: int, context_size: int, token_budget: int, layout: CacheLayout, sequences: int = 1
    ) -> None:
        """Set the sizes.

        Args:
            context_size: length of each sequence, in tokens.
            token_budget: most tokens in one step.
            layout: of the cache.
            sequences: most sequences that are computed at once.
        """
        self._tokens = [random_tokens(vocab_size, context_size, number) for number in range(sequences)]
        self._token_budget = token_budget
        self._layout = layout
        self._context_size = context_size
        self._numbers = count()

    def prompt(self, start: int, length: int, sequences: int = 1) -> list[StepPlan]:
        """Plans that compute prompts in steps of the token budget, one sequence after the other; only each sequence's
        last token gets logits.
        """
        stop, plans, chunks, room = start + length, [], [], self._token_budget
        for sequence in range(sequences if length else 0):
            first = start
            while first < stop:
                last = min(first + room, stop)
                chunks.append(self._chunk(sequence, first, last, samples=int(last == stop)))
                room -= last - first
                first = last
                if not room:
                    plans.append(self._plan(chunks))
                    chunks, room = [], self._token_budget
        if chunks:
            plans.append(self._plan(chunks))
        return plans

    def generation(self, start: int, length: int, sequences: int = 1, parts: int = 1) -> list[StepPlan]:
        """Plans that compute one token of every sequence after the other; each token is followed by a greedy choice,
        which is not used. The sequences are divided among `parts` steps.
        """
        return [
            self._plan([self._chunk(sequence, at, at + 1, samples=1) for sequence in range(part, sequences, parts)])
            for at in range(start, start + length)
            for part in range(parts)
        ]

    def _chunk(self, sequence: int, start: int, stop: int, *, samples: int) -> Chunk:
        blocks = numbered_blocks(self._layout, self._context_size, sequence, stop)
        return Chunk(sequence, tuple(self._tokens[sequence][start:stop]), start, blocks, samples)

    def _plan(self, chunks: list[Chunk]) -> StepPlan:
        number = next(self._numbers)
        return StepPlan(number, tuple(chunks), new=self.introductions() if number == 0 else ())

    def introductions(self) -> tuple[NewSequence, ...]:
        """All sequences, in the form in which the first plan introduces them to workers."""
        params = SamplingParams(temperature=0.0, seed=0)
        return tuple(
            NewSequence(number, tokens=(), prompt_length=0, params=params) for number in range(len(self._tokens))
        )
