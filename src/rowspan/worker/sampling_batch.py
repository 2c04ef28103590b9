"""Converts a step's sampling parameters into arrays for a card, and the card's answer into tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rowspan.kernels.sampling import NOT_FINITE, Additions, Changes, Masks, Penalties, SamplingBatch
from rowspan.scheduler.batch import Chunk, SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.history import History, TokenChoice
from rowspan.worker.logits_changes import Addition, AllowedTokens, LogitsChange, Penalty

Numbers = NDArray[np.generic]

MOST_RANKED = 1024  # of draws from all tokens; one that falls beyond is found without an order


def sampling_batch(choices: Sequence[TokenChoice], vocabulary: int) -> SamplingBatch[Numbers]:
    """Args: choices: of at least one row."""
    params = [choice.params for choice in choices]
    draws = [each for each in params if each.temperature > 0]
    wanted = [each.logprobs for each in params if each.logprobs is not None]

    def column(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, np.float64)[:, None]

    return SamplingBatch(
        temperature=column(each.temperature for each in params),
        top_k=column(_top_k(each, vocabulary) for each in params),
        top_p=column(each.top_p for each in params),
        min_logit=column(math.log(each.min_p) if each.min_p > 0 else -math.inf for each in params),
        uniform=column(choice.uniform for choice in choices),
        changes=tuple(_stacked([choice.changes for choice in choices], vocabulary)),
        ranked=_ranked([_top_k(each, vocabulary) for each in draws], vocabulary),
        alternatives=min(max(wanted), vocabulary) if wanted else None,
    )


def sampled_tokens(
    chunks: Sequence[Chunk], histories: Sequence[History], answer: NDArray[np.float64]
) -> tuple[SampledToken, ...]:
    """The tokens in what `rowspan.kernels.triton.sampling.choose_tokens` returned; they become part of the histories of
    these chunks' sequences."""
    sampled, rows = list[SampledToken](), iter(answer.tolist())
    for chunk, history in zip(chunks, histories, strict=True):
        chosen = [_token(chunk.seq_id, history.params.logprobs, row) for row in islice(rows, chunk.samples)]
        if chunk.samples == 1:
            history.add(chosen[0].token)
            sampled += chosen
        else:
            sampled += history.accept(chunk, chosen)
    return tuple(sampled)


def _token(seq_id: int, logprobs: int | None, row: Sequence[float]) -> SampledToken:
    token = int(row[0])
    if logprobs is None or token == NOT_FINITE:
        return SampledToken(seq_id, token)
    n = (len(row) - 2) // 2
    top = zip(map(int, row[2 : 2 + n]), row[2 + n :], strict=True)
    return SampledToken(seq_id, token, row[1], tuple(top)[:logprobs])


def _top_k(params: SamplingParams, vocabulary: int) -> int:
    return params.top_k if 0 < params.top_k < vocabulary else vocabulary


def _ranked(top_ks: Sequence[int], vocabulary: int) -> int:
    """Number of most likely tokens that are sorted: a power of two, so that few kinds of steps exist."""
    limited = max((top_k for top_k in top_ks if top_k < vocabulary), default=0)
    if limited > MOST_RANKED:
        return vocabulary
    return min(vocabulary, MOST_RANKED if vocabulary in top_ks else _power_of_2(limited))


def _power_of_2(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length() if at_least else 0


def _stacked(asked: Sequence[Sequence[LogitsChange]], vocabulary: int) -> Iterator[Changes[Numbers]]:
    """All rows' changes, joined where they are of one kind, and each row's in its order."""
    left = [list(changes) for changes in asked]
    while any(left):
        kind = type(max(left, key=len)[0])
        now = [changes.pop(0) if changes and type(changes[0]) is kind else None for changes in left]
        if kind is Addition:
            yield _additions([each if isinstance(each, Addition) else None for each in now])
        elif kind is Penalty:
            yield _penalties([each if isinstance(each, Penalty) else None for each in now])
        else:
            yield _masks([each if isinstance(each, AllowedTokens) else None for each in now], -(-vocabulary // 8))


def _additions(rows: Sequence[Addition | None]) -> Additions[Numbers]:
    width = _power_of_2(max(len(row.tokens) for row in rows if row is not None))
    tokens, values = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            tokens[place, : len(row.tokens)], values[place, : len(row.tokens)] = row
    return Additions(tokens, values)


def _penalties(rows: Sequence[Penalty | None]) -> Penalties[Numbers]:
    width = _power_of_2(max(len(row.tokens) for row in rows if row is not None))
    tokens, factors = np.zeros((len(rows), width), np.int64), np.ones((len(rows), 1), np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            tokens[place] = row.tokens[0]
            tokens[place, : len(row.tokens)] = row.tokens
            factors[place] = row.factor
    return Penalties(tokens, factors)


def _masks(rows: Sequence[AllowedTokens | None], n_bytes: int) -> Masks[Numbers]:
    places = [place for place, row in enumerate(rows) if row is not None]
    return Masks(np.array(places, np.int64), np.stack([row.bitmap[:n_bytes] for row in rows if row is not None]))
