"""Paged causal attention on cards.

A sequence with one row is decode's, one with more is prefill's, whatever its neighbours are: so its bits do not depend
on them. What kinds a step has only the card knows, but its longest sequence is known here: steps of single rows skip
prefill; others run both, each passing over the other's sequences, which costs decode's launch in steps without any.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.triton.attention.decode import decode
from rowspan.kernels.triton.attention.prefill import prefill
from rowspan.kernels.triton.attention.tile import check_heads


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    starts: Tensor,
    positions: Tensor,
    block_size: int,
    max_query: int,
    window: int | None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> Tensor:
    """Causal attention of q (T, heads · D) over each sequence's cached positions, scaled by 1/√D → (T, heads · D).

    Takes nothing from the card to the host, and its launches depend on shapes and host numbers alone: it may be
    captured in a graph, with sequences of no rows and rows of no sequence as padding; those rows of the result are not
    written.

    Args:
        k_cache, v_cache: (slots, KV heads, D) of float16, bfloat16 or float32; or int8, with scales.
        block_table: int32 (S, max_blocks). Position p of sequence s is in slot
            block_table[s, p // block_size] · block_size + p % block_size.
        starts: int32 (S + 1). Sequence s has rows starts[s] … starts[s + 1] - 1, at consecutive positions.
        positions: int32 (T,). A row sees its sequence's positions up to its own; others may hold NaN.
        max_query: most rows of one sequence in this step, or more.
        window: how many positions back (itself included) a row sees; None = all of them.
        k_scales, v_scales: float32 (slots, KV heads), of int8 caches.
    """
    check_heads(q, k_cache, v_cache)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    n_sequences = block_table.shape[0]
    if not out.numel() or not n_sequences:
        return out
    step = (out, q, k_cache, v_cache, block_table, starts, positions, block_size, window, k_scales, v_scales)
    if max_query > 1:
        prefill(*step)
    if max_query == 1 or n_sequences > 1:
        decode(*step)
    return out
