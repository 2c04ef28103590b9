"""Paged causal attention in plain torch: flash-style over tiles of keys (Dao et al. 2022), in float32.

Tile borders are absolute positions and small row counts are padded, so that a token's result does not depend on how
its prompt was cut into chunks or who shares the step. Measured with MKL: a product's rows keep their bits from 16 rows
on, and sums over at most 256 keys keep theirs when zeros are appended; not beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.ops import AttentionGroup, LayerCache, StepInputs

KEY_TILE = 256  # keys per tile
MIN_ROWS = 16  # rows of a query tile


def write_cache(cache: LayerCache, slots: Tensor, k: Tensor, v: Tensor) -> None:
    cache.k.index_copy_(0, slots, k.to(cache.k.dtype))
    cache.v.index_copy_(0, slots, v.to(cache.v.dtype))


def attention(q: Tensor, cache: LayerCache, inputs: StepInputs, window: int | None) -> Tensor:
    tokens, n_heads, head_dim = q.shape
    out = torch.empty_like(q)
    if n_heads:
        for group in inputs.groups:
            out[group.token_rows] = _attend(q[group.token_rows], cache, group, window).to(q.dtype)
    return out.view(tokens, n_heads * head_dim)


def _attend(q: Tensor, cache: LayerCache, group: AttentionGroup, window: int | None) -> Tensor:
    """q (B, M, H·G, D) → (B, M, H·G, D)."""
    n_sequences, n_tokens, n_heads, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    per_kv_head = n_heads // kv_heads
    n_rows = n_tokens * per_kv_head

    rows = q.view(n_sequences, n_tokens, kv_heads, per_kv_head, head_dim).permute(0, 2, 1, 3, 4)
    rows = rows.reshape(n_sequences, kv_heads, n_rows, head_dim).float() * head_dim**-0.5
    last = group.positions.repeat_interleave(per_kv_head, dim=1)  # (B, rows): the last position each row sees
    if n_rows < MIN_ROWS:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, MIN_ROWS - n_rows))
        last = torch.nn.functional.pad(last, (0, MIN_ROWS - n_rows))
    last = last[:, None, :, None]

    shape = (n_sequences, kv_heads, rows.shape[2], 1)
    highest = rows.new_full(shape, float("-inf"))
    total = rows.new_zeros(shape)
    weighted = torch.zeros_like(rows)
    for start in range(0, group.slots.shape[1], KEY_TILE):
        slots = group.slots[:, start : start + KEY_TILE]
        keys = cache.k[slots].float().permute(0, 2, 3, 1)  # (B, H, D, tile)
        values = cache.v[slots].float().permute(0, 2, 1, 3)  # (B, H, tile, D)
        at = torch.arange(start, start + KEY_TILE, device=q.device)
        hidden = at > last
        if window is not None:
            hidden |= at <= last - window
        scores = torch.matmul(rows, keys).masked_fill_(hidden, float("-inf"))
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        base = new_highest.clamp(min=-1e30)  # rows that have seen nothing yet: exp(-inf) instead of exp(nan)
        weights = torch.exp(scores - base)
        shrink = torch.exp(highest - base)
        total = total * shrink + weights.sum(-1, keepdim=True)
        # Weights are zero where hidden, but a slot that was never written may hold NaN, and 0 · NaN is NaN.
        values = values.masked_fill(_never_seen(group, at, window)[:, None, :, None], 0.0)
        weighted = weighted * shrink + torch.matmul(weights, values)
        highest = new_highest

    result = (weighted / total)[:, :, :n_rows].view(n_sequences, kv_heads, n_tokens, per_kv_head, head_dim)
    return result.permute(0, 2, 1, 3, 4).reshape(n_sequences, n_tokens, n_heads, head_dim)


def _never_seen(group: AttentionGroup, at: Tensor, window: int | None) -> Tensor:
    """(B, tile): keys that no token of the sequence sees in this step."""
    unseen = at > group.positions[:, -1:]
    if window is not None:
        unseen |= at <= group.positions[:, :1] - window
    return unseen
