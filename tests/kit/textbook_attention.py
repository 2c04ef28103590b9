"""Attention as textbooks and papers have it: in float64, one row and one head at a time, without tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.ops import AttentionOptions


def textbook_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: int,
    options: AttentionOptions,
    sinks: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """One sequence's queries, at positions first …, over its keys and values, at positions 0 …; see
    `rowspan.kernels.ops.Kernels.attention`.

    Args:
        q: (M, heads, key size). k: (L, KV heads, key size). v: (L, KV heads, value size).
        sinks: (heads,). gate: (M, heads, value size).

    Returns:
        float64 (M, heads, value size).
    """
    out = torch.zeros(*q.shape[:2], v.shape[2], dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    scale = q.shape[2] ** -0.5 if options.scale is None else options.scale
    for row in range(q.shape[0]):
        at = first + row
        if options.causal:
            seen = slice(0 if options.window is None else max(0, at - options.window + 1), at + 1)
        else:
            half = len(k) if options.window is None else options.window // 2
            seen = slice(max(0, at - half), at + half + 1)
        for head in range(q.shape[1]):
            keys, values = k[seen, head // group].double(), v[seen, head // group].double()
            scores = keys @ q[row, head].double() * scale
            if options.soft_cap is not None:
                scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head : head + 1].double()])
            weights = torch.softmax(scores, dim=0)[: len(values)]
            out[row, head] = weights @ values
    return out if gate is None else out * torch.sigmoid(gate.double())
