"""Chooses the tokens that follow from logits.

The order of the steps is that of llama.cpp's default chain: first what `rowspan.worker.logits_processors` change (logit
bias, penalties), then top_k, top_p, min_p, temperature; `rowspan.worker.filters` has more, which few ask for.
The random number of a token depends on the request's seed and the token's place alone, so a seed gives the same text
after a preemption and whoever shares the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rowspan.kernels.sampling import NOT_FINITE
from rowspan.scheduler.batch import Chunk, NewSequence, SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.filters import draw_filtered
from rowspan.worker.history import History
from rowspan.worker.logits_changes import Logits
from rowspan.worker.logits_processors import MakeProcessors, logits_processors

FIRST_RANKS = (1024, 16384)  # among which nearly all draws end


class Sampler:
    """Sampling state of all sequences the output rank knows."""

    def __init__(self, processors: MakeProcessors = logits_processors) -> None:
        self._processors = processors
        self._histories: dict[int, History] = {}

    def learn(self, sequence: NewSequence) -> None:
        self._histories[sequence.seq_id] = History.of(sequence, self._processors)

    def forget(self, seq_id: int) -> None:
        self._histories.pop(seq_id, None)

    def latest(self, seq_id: int) -> int:
        """The token that was chosen last for a sequence."""
        return self._histories[seq_id].tokens[-1]

    def sample(self, chunks: Sequence[Chunk], logits: NDArray[np.float32]) -> tuple[SampledToken, ...]:
        """Tokens of chunks that sample, in order, from logits (sum of their samples, vocabulary)."""
        if not chunks:
            return ()
        sampled, row = list[SampledToken](), 0
        likeliest = logits.argmax(axis=-1).tolist()
        for chunk in chunks:
            history = self._histories[chunk.seq_id]
            if (
                history.params.prompt_logprobs is not None
                and chunk.position + len(chunk.tokens) <= history.prompt_length
            ):
                sampled += self._score(chunk, history, logits, row, likeliest)
            elif chunk.samples == 1:
                sampled.append(self._choose(chunk.seq_id, history, logits, row, likeliest[row]))
                history.add(sampled[-1].token)
            else:
                each = enumerate(history.at_each(chunk), start=row)
                chosen = [self._choose(chunk.seq_id, history, logits, row, likeliest[row]) for row, _ in each]
                sampled += history.accept(chunk, chosen)
            row += chunk.samples
        return tuple(sampled)

    def _choose(
        self, seq_id: int, history: History, rows: NDArray[np.float32], row: int, likeliest: int
    ) -> SampledToken:
        if not math.isfinite(rows[row, likeliest]):  # argmax finds a NaN first
            return SampledToken(seq_id, NOT_FINITE)
        if history.takes_likeliest:
            return SampledToken(seq_id, likeliest)
        logits, params = rows[row], history.params
        changed = _changed(logits, history) if history.processors else logits
        if params.needs_order:
            token = draw_filtered(changed, params, history.uniforms())
        elif params.temperature > 0:
            token = _draw(changed, params, history.uniform())
        else:
            token = likeliest if changed is logits else int(changed.argmax())
        if params.logprobs is None:
            return SampledToken(seq_id, token)
        return _told(seq_id, token, logits, likeliest, params.logprobs)

    def _score(
        self, chunk: Chunk, history: History, rows: NDArray[np.float32], first: int, likeliest: Sequence[int]
    ) -> list[SampledToken]:
        """A part of a prompt: the tokens that follow, as far as they are known, and then the one that is chosen."""
        tokens = history.tokens[chunk.position + 1 : chunk.position + len(chunk.tokens) + 1]
        wanted = history.params.prompt_logprobs or 0
        scored = [
            _told(chunk.seq_id, token, rows[first + place], likeliest[first + place], wanted)
            if math.isfinite(rows[first + place, likeliest[first + place]])
            else SampledToken(chunk.seq_id, NOT_FINITE)
            for place, token in enumerate(tokens)
        ]
        if len(scored) < chunk.samples:
            last = first + chunk.samples - 1
            scored.append(self._choose(chunk.seq_id, history, rows, last, likeliest[last]))
            history.add(scored[-1].token)
        return scored


def _told(seq_id: int, token: int, logits: Logits, likeliest: int, count: int) -> SampledToken:
    """A token with its log-probability, and the `count` likeliest ones."""
    highest = float(logits[likeliest])
    log_sum = highest + math.log(np.exp(logits - highest).sum(dtype=np.float64))
    top = _most_likely(logits, min(count, len(logits))) if count else []
    alternatives = tuple((other, float(logits[other]) - log_sum) for other in top)
    return SampledToken(seq_id, token, float(logits[token]) - log_sum, alternatives)


def _changed(logits: Logits, history: History) -> Logits:
    logits = logits.copy()
    for change in history.changes(len(logits)):
        change.apply(logits)
    return logits


def _draw(logits: Logits, params: SamplingParams, uniform: float) -> int:
    """Draw from the filtered distribution by inverting its cumulative sum, likeliest token first (ties: lower id).

    Only values are sorted, and the token is looked up by the rank that was drawn: a vocabulary of 50,000 takes 0.1 ms
    to sort, its ids in the order of their values 5.8 ms. Nor are all of them, as a rule: a draw that ends among the
    first 1024 takes 0.1 ms, from all of them 0.6.
    """
    costs = -logits
    count = params.top_k if 0 < params.top_k < len(logits) else len(logits)

    @cache
    def mass_of_all(temperature: float) -> float:
        return float(np.exp((costs.min() - costs) / np.float32(temperature)).sum(dtype=np.float64))

    for first in FIRST_RANKS:
        if first < count == len(logits):
            ordered = _lowest(costs, first)
            rank = _drawn_rank(ordered, params, uniform, mass_of_all)
            if rank is not None:
                return _token_at(costs, ordered, rank)
    ordered = _lowest(costs, count)
    rank = _drawn_rank(ordered, params, uniform)
    assert rank is not None, "there are no others"
    return _token_at(costs, ordered, rank)


def _token_at(costs: Logits, ordered: Logits, rank: int) -> int:
    equals = np.flatnonzero(costs == ordered[rank])
    return int(equals[rank - np.searchsorted(ordered, ordered[rank])])


def _lowest(costs: Logits, count: int) -> Logits:
    """The `count` lowest values, in order."""
    return np.sort(np.partition(costs, count - 1)[:count] if count < len(costs) else costs)


def _drawn_rank(
    ordered: Logits, params: SamplingParams, uniform: float, mass_of_all: Callable[[float], float] | None = None
) -> int | None:
    """The rank that is drawn, of negative logits in order.

    Args:
        mass_of_all: of all tokens at some temperature, that of the likeliest being 1, where these are only the first of
            them; None: they are all.

    Returns:
        None: it takes more of them to tell.
    """
    ranked = ordered[0] - ordered.astype(np.float64)  # logits, the highest being 0
    if params.top_p < 1.0:
        mass = np.cumsum(np.exp(ranked))
        kept = 1 + int(np.searchsorted(mass, params.top_p * (mass_of_all(1.0) if mass_of_all else mass[-1])))
        if mass_of_all and kept > len(ranked):
            return None
        ranked, mass_of_all = ranked[:kept], None
    if params.min_p > 0.0:
        kept = max(1, int(np.count_nonzero(ranked >= math.log(params.min_p))))
        if mass_of_all and kept == len(ranked):
            return None
        ranked, mass_of_all = ranked[:kept], None
    mass = np.cumsum(np.exp(ranked / params.temperature))
    drawn = uniform * (mass_of_all(params.temperature) if mass_of_all else mass[-1])
    rank = int(np.searchsorted(mass, drawn, side="right"))
    if mass_of_all and rank == len(ranked):
        return None
    return min(rank, len(ranked) - 1)


def _most_likely(logits: Logits, count: int) -> list[int]:
    """The `count` most likely tokens, best first (ties: lower id)."""
    lowest = np.partition(logits, -count)[-count]
    tokens = np.flatnonzero(logits >= lowest)
    best_first = np.argsort(-logits[tokens], kind="stable")
    return [int(token) for token in tokens[best_first[:count]]]
