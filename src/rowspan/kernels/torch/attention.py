"""Paged attention in plain torch: flash-style over tiles of keys (Dao et al. 2022), in float32.

Tile borders are absolute positions and small row counts are padded, so that a token's result does not depend on how
its prompt was cut into chunks or who shares the step. Measured with MKL: rows of q·k keep their bits from 16 rows on,
rows of weights·v from 4 on, as long as the sum is over at most 256 keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rowspan.kernels.ops import KEY_TILE, AttentionOptions
from rowspan.kernels.torch import small_ops
from rowspan.kernels.torch.inputs import AttentionGroup
from rowspan.kernels.torch.kv_cache import Cache, read_cache

MIN_SCORE_ROWS = 16  # rows of a product q·k
MIN_VALUE_ROWS = 4  # rows of a product weights·v
EVERYTHING = 1 << 40  # a window, in positions
LOWEST = -80.0  # exp of less would be denormal or zero, which costs MKL's exp ten times as long, and counts for nothing


def attention(
    q: Tensor,
    cache: Cache,
    groups: Sequence[AttentionGroup],
    options: AttentionOptions,
    sinks: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """q (T, heads · key size) → (T, heads · value size); see `rowspan.kernels.ops.Kernels.attention`."""
    key_size, value_size = cache.k.shape[2], cache.v.shape[2]
    heads = q.view(q.shape[0], q.shape[1] // key_size, key_size)  # also of no rows
    out = q.new_empty(q.shape[0], heads.shape[1], value_size)
    gates = None if gate is None else gate.reshape(out.shape)
    if heads.shape[1]:
        for group in groups:
            result = _attend(heads[group.token_rows], cache, group, options, sinks)
            if gates is not None:
                result *= torch.sigmoid(gates[group.token_rows].float())
            out[group.token_rows] = result.to(q.dtype)
    return out.flatten(1)


def _attend(q: Tensor, cache: Cache, group: AttentionGroup, options: AttentionOptions, sinks: Tensor | None) -> Tensor:
    """q (B, M, H·G, key size) → float32 (B, M, H·G, value size)."""
    n_sequences, n_tokens, n_heads, key_size = q.shape
    kv_heads, value_size = cache.v.shape[1:]
    scale = key_size**-0.5 if options.scale is None else options.scale
    per_kv_head = n_heads // kv_heads
    n_rows = n_tokens * per_kv_head

    rows = q.view(n_sequences, n_tokens, kv_heads, per_kv_head, key_size).permute(0, 2, 1, 3, 4)
    rows = rows.reshape(n_sequences * kv_heads, n_rows, key_size).float() * scale
    rows = _pad_rows(rows, MIN_SCORE_ROWS)
    own = group.positions.repeat_interleave(per_kv_head, dim=1)
    first, last = _seen(own.repeat_interleave(kv_heads, dim=0)[:, :, None], options)

    highest = rows.new_full((n_sequences * kv_heads, n_rows, 1), float("-inf"))
    total = torch.zeros_like(highest)
    if sinks is not None:  # a score that every row has seen before all others
        of_rows = sinks.float().view(kv_heads, 1, per_kv_head).expand(n_sequences, kv_heads, n_tokens, per_kv_head)
        highest, total = of_rows.reshape(highest.shape), torch.ones_like(highest)
    weighted = rows.new_zeros(n_sequences * kv_heads, n_rows, value_size)
    for start in range(0, group.slots.shape[2], KEY_TILE):
        keys, values = _gather(cache, group, start, options.window if options.causal else None)
        at = torch.arange(start, start + KEY_TILE, device=q.device)
        hidden = (at > last) | (at < first)
        scores = torch.bmm(rows, keys.transpose(1, 2))[:, :n_rows]
        if options.soft_cap is not None:
            scores = small_ops.soft_cap(scores, options.soft_cap)
        scores = scores.masked_fill(hidden, float("-inf"))
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        base = new_highest.clamp(min=-1e30)  # rows that have seen nothing yet: -inf - -inf would be nan
        weights = scores.sub_(base).clamp_(min=LOWEST).exp_()
        shrink = torch.exp(highest - base)
        total = total * shrink + weights.sum(-1, keepdim=True)
        weighted = weighted * shrink + torch.bmm(_pad_rows(weights, MIN_VALUE_ROWS), values)[:, :n_rows]
        highest = new_highest

    result = (weighted / total).view(n_sequences, kv_heads, n_tokens, per_kv_head, value_size)
    return result.permute(0, 2, 1, 3, 4).reshape(n_sequences, n_tokens, n_heads, value_size)


def _seen(own: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """The first and the last position that each row sees, from its own (B·H, rows, 1)."""
    window = EVERYTHING if options.window is None else options.window
    if options.causal:
        return own - window + 1, own
    return own - window // 2, torch.minimum(own + window // 2, own.amax(dim=1, keepdim=True))


def _gather(cache: Cache, group: AttentionGroup, start: int, window: int | None) -> tuple[Tensor, Tensor]:
    """One tile of keys (B·H, tile, key size), and of values (B·H, tile, value size)."""
    slots = group.slots[cache.group, :, start : start + KEY_TILE].flatten()
    n_sequences, kv_heads = len(group.lengths), cache.k.shape[1]
    keys, values = (
        read_cache(side, scales, slots).view(n_sequences, KEY_TILE, kv_heads, side.shape[2])
        for side, scales in ((cache.k, cache.k_scales), (cache.v, cache.v_scales))
    )
    # Weights of hidden keys are next to nothing, but what nobody has written yet may hold NaN, and 0 · NaN is NaN. What
    # is behind the window of every token may be another sequence's, or nobody's.
    for sequence, length in enumerate(group.lengths):
        if length < start + KEY_TILE:
            values[sequence, max(0, length - start) :] = 0.0
        first_seen = 0 if window is None else length - group.positions.shape[1] - window + 1
        if first_seen > start:
            values[sequence, : first_seen - start] = 0.0
    return keys.transpose(1, 2).flatten(0, 1), values.transpose(1, 2).flatten(0, 1)


def _pad_rows(x: Tensor, n_rows: int) -> Tensor:
    missing = n_rows - x.shape[1]
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x
