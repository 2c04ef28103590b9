"""Paged causal attention on cards: chooses between the kernels for decoding and for prefill.

A sequence with one row is decode's, one with more is prefill's, whatever its neighbours are: so its bits do not depend
on them. Only the card knows which kinds a step has, but the host knows its longest sequence: steps of single rows skip
prefill; others run both kernels, each of which passes over the other's sequences. This costs decode's launch in steps
that have no single rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.triton.attention.decode import decode
from rowspan.kernels.triton.attention.prefill import prefill
from rowspan.kernels.triton.attention.tile import check_heads


def attention(
    q: Tensor,
    cache: Cache,
    block_table: Tensor,
    starts: Tensor,
    positions: Tensor,
    block_size: int,
    max_query: int,
    options: AttentionOptions,
    sinks: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """Causal attention of q (T, heads · key size) over each sequence's cached positions → (T, heads · value size).

    Takes nothing from the card to the host, and its launches depend on shapes and host numbers alone: it may be
    captured in a graph, with sequences of no rows and rows of no sequence as padding; those rows of the result are not
    written.

    Args:
        cache: of float16, bfloat16 or float32; or int8, with scales.
        block_table: int32 (S, max_blocks). Position p of sequence s is in slot
            block_table[s, p // block_size] · block_size + p % block_size.
        starts: int32 (S + 1). Sequence s has rows starts[s] … starts[s + 1] - 1, at consecutive positions.
        positions: int32 (T,). A row sees its sequence's positions up to its own; others may hold NaN.
        max_query: most rows of one sequence in this step, or more.
        options, sinks, gate: see `rowspan.kernels.ops.Kernels.attention`. gate may be columns of a wider tensor.
    """
    check_heads(q, cache.k, cache.v)
    width = q.shape[1] // cache.k.shape[2] * cache.v.shape[2]
    out = torch.empty((q.shape[0], width), dtype=q.dtype, device=q.device)
    n_sequences = block_table.shape[0]
    if not out.numel() or not n_sequences:
        return out
    step = (out, q, cache, block_table, starts, positions, block_size, options, sinks, gate)
    if max_query > 1:
        prefill(*step)
    if max_query == 1 or n_sequences > 1:
        decode(*step)
    return out
