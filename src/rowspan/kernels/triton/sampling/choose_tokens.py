"""Chooses tokens on the card, by the definition in `rowspan.worker.sampler`, for rows that ask for different things.

Nothing waits for the host, and shapes depend on what `SamplingBatch` says of all rows together. Sorting a vocabulary
takes as long as a step of a small model, and nearly all draws fall among the most likely thousand. So draws from whole
vocabularies are made from those, with the mass of all the others known; one that falls beyond takes longer
(`rowspan.kernels.triton.sampling.draw`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.sampling import NOT_FINITE, Additions, Changes, Masks, Penalties, SamplingBatch
from rowspan.kernels.triton.sampling.draw import TOKEN_BITS, UNKNOWN, rank_key

BLOCK = 1024  # elements of a program

RankKeys = Callable[[Tensor], Tensor]
"""A function that turns logits into integers: see `rank_keys`."""

DrawBeyond = Callable[[Tensor, Tensor, Tensor, SamplingBatch[Tensor]], None]
"""A function like `rowspan.kernels.triton.sampling.draw.draw_beyond`."""


def sample(logits: Tensor, batch: SamplingBatch[Tensor], keys_of: RankKeys, draw_beyond: DrawBeyond) -> Tensor:
    """Choose a token for each row, in a tensor that one copy brings to the host: float64 (N, 1), the tokens. With
    log-probabilities (N, 2 + 2 n): the token, its log-probability, the n most likely tokens, and their
    log-probabilities. A token's id is exact in a float64. It is NOT_FINITE in rows without a distribution.

    Args:
        logits: float32 (N, vocabulary); not changed.
        keys_of, draw_beyond: `rank_keys` and `draw_beyond`, or functions that do the same.
    """
    likeliest = logits.argmax(-1, keepdim=True)
    highest = logits.gather(1, likeliest)
    changed = logits
    for changes in batch.changes:
        changed = _changed(changed, changes)
    token = likeliest if changed is logits else changed.argmax(-1, keepdim=True)
    if batch.ranked:
        token = torch.where(batch.temperature > 0, draw(changed, batch, keys_of, draw_beyond), token)
    told = torch.where(highest.isfinite(), token, NOT_FINITE).double()  # argmax finds a NaN first
    if batch.alternatives is None:
        return told

    total = torch.exp(logits - highest).sum(-1, keepdim=True, dtype=torch.float64)
    log_sum = highest.double() + total.log()
    columns = [told, logits.gather(1, token).double() - log_sum]
    if batch.alternatives:
        values, tokens = most_likely(logits, batch.alternatives, keys_of)
        columns += [tokens.double(), values.double() - log_sum]
    return torch.cat(columns, dim=1)


def profile(logits: Tensor, keys_of: RankKeys, draw_beyond: DrawBeyond) -> None:
    """Sampling's part of what a step takes, with all kernels that it may need."""
    one = torch.ones((len(logits), 1), dtype=torch.float64, device=logits.device)
    filters = (one, one * logits.shape[1], one, -one, 0 * one)
    batch = SamplingBatch(*filters, changes=(), ranked=1, alternatives=None)
    draw(logits, batch, keys_of, draw_beyond)


def _changed(logits: Tensor, changes: Changes[Tensor]) -> Tensor:
    match changes:
        case Additions(tokens, values):
            # Atomic additions, but of one number and zeros to each place: their order makes no difference.
            return logits.scatter_add(1, tokens, values)
        case Penalties(tokens, factors):
            values = logits.gather(1, tokens)
            return logits.scatter(1, tokens, torch.where(values > 0, values / factors, values * factors))
        case Masks(rows, bitmaps):
            bit = torch.arange(8, dtype=torch.uint8, device=logits.device)
            allowed = (bitmaps[:, :, None] >> bit & 1).bool().flatten(1)[:, : logits.shape[1]]
            return logits.index_copy(0, rows, logits.index_select(0, rows).where(allowed, -math.inf))


def draw(logits: Tensor, batch: SamplingBatch[Tensor], keys_of: RankKeys, draw_beyond: DrawBeyond) -> Tensor:
    """Draw one token for each row, (N, 1): see `rowspan.worker.sampler`. Filters keep a row's first few ranks."""
    values, tokens = most_likely(logits, batch.ranked, keys_of)
    highest, width = values[:, :1], values.shape[1]
    ranked = values.double() - highest.double()
    rank = torch.arange(width, device=logits.device)
    temperature = torch.where(batch.temperature > 0, batch.temperature, 1.0)
    beyond = batch.top_k > width  # all tokens are kept so far, also those that are not ranked here

    kept = rank < batch.top_k
    mass = torch.where(kept, ranked.exp(), 0.0).cumsum(-1)
    total = mass[:, -1:]
    if width < logits.shape[1]:
        total = torch.where(beyond, torch.exp(logits - highest).sum(-1, keepdim=True, dtype=torch.float64), total)
    within = (mass < batch.top_p * total).sum(-1, keepdim=True)
    kept &= (rank <= within) | (batch.top_p >= 1.0)
    kept &= (ranked >= batch.min_logit) | (rank == 0)
    beyond &= kept[:, -1:]

    mass = torch.where(kept, (ranked / temperature).exp(), 0.0).cumsum(-1)
    total = mass[:, -1:]
    if width < logits.shape[1]:  # top_p's border is not known beyond these ranks; min_p's is
        lower = logits - highest
        weights = torch.where(lower >= batch.min_logit, torch.exp(lower / temperature.float()), 0.0)
        total = torch.where(beyond, weights.sum(-1, keepdim=True, dtype=torch.float64), total)
    drawn = (mass <= batch.uniform * total).sum(-1, keepdim=True)
    unknown = beyond & ((drawn >= width) | (batch.top_p < 1.0))
    drawn = torch.minimum(drawn, kept.sum(-1, keepdim=True) - 1)
    # A row of NaN may have kept nothing; it is not drawn from.
    token = torch.where(unknown, UNKNOWN, tokens.gather(1, drawn.clamp(min=0)))
    if width < logits.shape[1]:
        draw_beyond(token, logits, temperature, batch)
    return token


def most_likely(logits: Tensor, count: int, keys_of: RankKeys) -> tuple[Tensor, Tensor]:
    """Values and ids of the `count` most likely tokens, best first, lower ids first among equals."""
    vocabulary = logits.shape[1]
    if count >= vocabulary:
        return torch.sort(logits + 0.0, dim=-1, descending=True, stable=True)  # + 0: see rank_key
    # Which of equal values torch.topk takes is not defined, so it is given numbers that are all different.
    tokens = vocabulary - 1 - torch.topk(keys_of(logits), count, dim=-1).values % 2**TOKEN_BITS
    return logits.gather(1, tokens), tokens


def rank_keys(logits: Tensor) -> Tensor:
    """Integers in the order of the values, and for equal values in that of falling ids, which are the lowest bits."""
    n_rows, vocabulary = logits.shape
    keys = torch.empty((n_rows, vocabulary), dtype=torch.int64, device=logits.device)
    _rank_keys[(triton.cdiv(vocabulary, BLOCK), n_rows)](
        keys, logits, vocabulary, logits.stride(0), TOKEN_BITS=TOKEN_BITS, BLOCK=BLOCK
    )
    return keys


def torch_rank_keys(logits: Tensor) -> Tensor:
    """Like `rank_keys`, in plain torch."""
    bits = (logits + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() + 2**31
    return (ordered << TOKEN_BITS) + torch.arange(logits.shape[1] - 1, -1, -1, device=logits.device)


def torch_draw_beyond(token: Tensor, logits: Tensor, temperature: Tensor, batch: SamplingBatch[Tensor]) -> None:
    """Like `draw_beyond`, in plain torch: all rows' tokens are sorted, whether that is needed or not."""
    ordered = draw(logits, replace(batch, ranked=logits.shape[1]), torch_rank_keys, torch_draw_beyond)
    token.copy_(torch.where(token < 0, ordered, token))


@triton.jit
def _rank_keys(keys, logits, vocabulary, stride, TOKEN_BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * stride + token, mask=token < vocabulary, other=0.0)
    tl.store(keys + row * vocabulary + token, rank_key(value, token, vocabulary, TOKEN_BITS), mask=token < vocabulary)
