"""A step's sampling parameters as arrays for a card, and its answer as tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rowspan.kernels.sampling import Entries, SamplingBatch
from rowspan.scheduler.batch import SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.history import Changes, History, Tokens

MOST_RANKED = 1024  # of draws from all tokens; one that falls beyond is found without an order


def sampling_batch(histories: Sequence[History], vocabulary: int) -> SamplingBatch[NDArray[np.generic]]:
    """What the next token of each of these sequences (at least one) is chosen by."""
    params = [history.params for history in histories]
    repeated = [history.repeated() for history in histories]
    draws = [each for each in params if each.temperature > 0]
    wanted = [each.logprobs for each in params if each.logprobs is not None]

    def column(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, np.float64)[:, None]

    return SamplingBatch(
        temperature=column(each.temperature for each in params),
        top_k=column(_top_k(each, vocabulary) for each in params),
        top_p=column(each.top_p for each in params),
        min_logit=column(math.log(each.min_p) if each.min_p > 0 else -math.inf for each in params),
        uniform=column(each.uniform() if each.params.temperature > 0 else 0.0 for each in histories),
        repeat_penalty=column(
            1.0 if tokens is None else each.repeat_penalty for each, tokens in zip(params, repeated, strict=True)
        ),
        bias=_entries([history.bias(vocabulary) for history in histories]),
        seen=_padded(repeated),
        change=_entries([history.overused() for history in histories]),
        ranked=_ranked([_top_k(each, vocabulary) for each in draws], vocabulary),
        alternatives=min(max(wanted), vocabulary) if wanted else None,
    )


def sampled_tokens(
    seq_ids: Sequence[int], histories: Sequence[History], answer: NDArray[np.float64]
) -> tuple[SampledToken, ...]:
    """The tokens in what `rowspan.kernels.triton.sampling.choose_tokens` returned; they become part of the
    histories."""
    n = (answer.shape[1] - 2) // 2
    sampled = []
    for seq_id, history, row in zip(seq_ids, histories, answer.tolist(), strict=True):
        token, wanted = int(row[0]), history.params.logprobs
        history.add(token)
        if wanted is None:
            sampled.append(SampledToken(seq_id, token))
            continue
        top = zip(map(int, row[2 : 2 + n]), row[2 + n :], strict=True)
        sampled.append(SampledToken(seq_id, token, row[1], tuple(top)[:wanted]))
    return tuple(sampled)


def _top_k(params: SamplingParams, vocabulary: int) -> int:
    return params.top_k if 0 < params.top_k < vocabulary else vocabulary


def _ranked(top_ks: Sequence[int], vocabulary: int) -> int:
    """How many of the most likely tokens are put in order: a power of two, so that few kinds of steps exist."""
    limited = max((top_k for top_k in top_ks if top_k < vocabulary), default=0)
    if limited > MOST_RANKED:
        return vocabulary
    return min(vocabulary, MOST_RANKED if vocabulary in top_ks else _power_of_2(limited))


def _power_of_2(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length() if at_least else 0


def _entries(changes: Sequence[Changes | None]) -> Entries[NDArray[np.generic]] | None:
    width = _power_of_2(max((len(each[0]) for each in changes if each is not None), default=0))
    if not width:
        return None
    tokens, values = np.zeros((len(changes), width), np.int64), np.zeros((len(changes), width), np.float32)
    for row, each in enumerate(changes):
        if each is not None:
            tokens[row, : len(each[0])], values[row, : len(each[0])] = each
    return Entries(tokens, values)


def _padded(rows: Sequence[Tokens | None]) -> NDArray[np.generic] | None:
    width = _power_of_2(max((len(row) for row in rows if row is not None), default=0))
    if not width:
        return None
    tokens = np.zeros((len(rows), width), np.int64)
    for to, row in zip(tokens, rows, strict=True):
        if row is not None:
            to[:] = row[0]
            to[: len(row)] = row
    return tokens
