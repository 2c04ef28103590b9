"""A step plan in the making: which tokens of which requests, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import LATEST, Chunk, NewSequence
from rowspan.scheduler.request import Request, WantedStates


class PlannedPart(NamedTuple):
    """A request's part of a plan."""

    request: Request
    end: int  # so many of its tokens will then be computed
    samples: int  # of the last of these, that a token is chosen after
    guesses: tuple[int, ...] = ()  # that the part ends with


class PlanDraft:
    """A plan in the making."""

    def __init__(self, budget: int, cache: CacheManager) -> None:
        self.budget = budget  # tokens left
        self.scored = cache.block_size  # tokens of prompts left, whose logits are all wanted
        self.chunks: list[Chunk] = []
        self.new: list[NewSequence] = []
        self.planned: list[PlannedPart] = []
        self._cache = cache

    def add(self, request: Request, end: int, guesses: Sequence[int] = ()) -> None:
        """Plan to compute a request's tokens up to position `end`: known ones, or the next one.

        Args:
            guesses: what may follow, and is computed, too; a token is chosen at each place from the last known one on.
        """
        start, known = request.planned, len(request.tokens)
        if not request.introduced:
            request.introduced = True
            self.new.append(NewSequence(request.seq_id, tuple(request.tokens), request.prompt_length, request.params))
        tokens = (*request.tokens[start:end], *guesses) or (LATEST,)
        end += len(guesses)
        blocks = self._cache.joined(request.tables, end)
        samples = int(end >= known and request.states is None) + len(guesses)
        if request.is_scored:
            samples = end - start
            self.scored -= samples
        hidden = end - start if request.states is WantedStates.ALL else int(end >= known and not samples)
        self.chunks.append(Chunk(request.seq_id, tokens, start, blocks, samples, hidden))
        self.planned.append(PlannedPart(request, end, samples, tuple(guesses)))
        self.budget -= end - start
        request.planned = end
