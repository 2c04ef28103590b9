"""Paged causal attention in plain torch: flash-style over tiles of keys (Dao et al. 2022), in float32.

Tile borders are absolute positions and small row counts are padded, so that a token's result does not depend on how
its prompt was cut into chunks or who shares the step. Measured with MKL: rows of q·k keep their bits from 16 rows on,
rows of weights·v from 4 on, as long as the sum is over at most 256 keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rowspan.kernels.ops import KEY_TILE
from rowspan.kernels.torch.inputs import AttentionGroup
from rowspan.kernels.torch.kv_cache import Cache, read_cache

MIN_SCORE_ROWS = 16  # rows of a product q·k
MIN_VALUE_ROWS = 4  # rows of a product weights·v
LOWEST = -80.0  # exp of less would be denormal or zero, which costs MKL's exp ten times as long, and counts for nothing


def attention(q: Tensor, cache: Cache, groups: Sequence[AttentionGroup], window: int | None) -> Tensor:
    """q (T, H·G·D) → the same."""
    heads = q.view(q.shape[0], q.shape[1] // cache.k.shape[2], cache.k.shape[2])  # also of no rows
    out = torch.empty_like(heads)
    if heads.shape[1]:
        for group in groups:
            out[group.token_rows] = _attend(heads[group.token_rows], cache, group, window).to(q.dtype)
    return out.view(q.shape)


def _attend(q: Tensor, cache: Cache, group: AttentionGroup, window: int | None) -> Tensor:
    """q (B, M, H·G, D) → (B, M, H·G, D)."""
    n_sequences, n_tokens, n_heads, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    per_kv_head = n_heads // kv_heads
    n_rows = n_tokens * per_kv_head

    rows = q.view(n_sequences, n_tokens, kv_heads, per_kv_head, head_dim).permute(0, 2, 1, 3, 4)
    rows = rows.reshape(n_sequences * kv_heads, n_rows, head_dim).float() * head_dim**-0.5
    rows = _pad_rows(rows, MIN_SCORE_ROWS)
    last = group.positions.repeat_interleave(per_kv_head, dim=1)  # what each row sees up to
    last = last.repeat_interleave(kv_heads, dim=0)[:, :, None]

    highest = rows.new_full((n_sequences * kv_heads, n_rows, 1), float("-inf"))
    total = torch.zeros_like(highest)
    weighted = rows.new_zeros(n_sequences * kv_heads, n_rows, head_dim)
    for start in range(0, group.slots.shape[1], KEY_TILE):
        keys, values = _gather(cache, group, start)
        at = torch.arange(start, start + KEY_TILE, device=q.device)
        hidden = at > last
        if window is not None:
            hidden |= at <= last - window
        scores = torch.bmm(rows, keys.transpose(1, 2))[:, :n_rows].masked_fill(hidden, float("-inf"))
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        base = new_highest.clamp(min=-1e30)  # rows that have seen nothing yet: -inf - -inf would be nan
        weights = scores.sub_(base).clamp_(min=LOWEST).exp_()
        shrink = torch.exp(highest - base)
        total = total * shrink + weights.sum(-1, keepdim=True)
        weighted = weighted * shrink + torch.bmm(_pad_rows(weights, MIN_VALUE_ROWS), values)[:, :n_rows]
        highest = new_highest

    result = (weighted / total).view(n_sequences, kv_heads, n_tokens, per_kv_head, head_dim)
    return result.permute(0, 2, 1, 3, 4).reshape(n_sequences, n_tokens, n_heads, head_dim)


def _gather(cache: Cache, group: AttentionGroup, start: int) -> tuple[Tensor, Tensor]:
    """One tile of keys and values, each (B·H, tile, D)."""
    slots = group.slots[:, start : start + KEY_TILE].flatten()
    n_sequences, kv_heads, head_dim = len(group.slots), *cache.k.shape[1:]
    shape = (n_sequences, KEY_TILE, kv_heads, head_dim)
    by_head = (n_sequences * kv_heads, KEY_TILE, head_dim)
    keys = read_cache(cache.k, cache.k_scales, slots).view(shape)
    values = read_cache(cache.v, cache.v_scales, slots).view(shape)
    # Weights of hidden keys are next to nothing, but what nobody has written yet may hold NaN, and 0 · NaN is NaN.
    for sequence, length in enumerate(group.lengths):
        if length < start + KEY_TILE:
            values[sequence, max(0, length - start) :] = 0.0
    return keys.transpose(1, 2).reshape(by_head), values.transpose(1, 2).reshape(by_head)


def _pad_rows(x: Tensor, n_rows: int) -> Tensor:
    missing = n_rows - x.shape[1]
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x
