"""Attention of sequences with several new tokens each, at any depth: bound by matrix products.

A tile of queries is the heads that share a KV head times some tokens, so that a tile of keys serves all of them. Which
sequence a tile belongs to is found on the card from `starts`: sequence s has tiles from starts[s] // tokens + s on, so
the grid holds one tile per sequence more than there is work for, however unlike their lengths are (a grid of the
longest sequence's tiles for each of 64 sequences would be nearly all idle when one prompt joins 63 that decode).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.triton.attention.tile import LOG2_E, attend_tile, matrix_type, score_factors
from rowspan.kernels.triton.attention.tile_sizes import prefill_tiles
from rowspan.kernels.triton.card_family import card_of

SEARCHED = 128  # sequences looked at in one go


def prefill(
    out: Tensor,
    q: Tensor,
    cache: Cache,
    block_table: Tensor,
    starts: Tensor,
    positions: Tensor,
    block_size: int,
    options: AttentionOptions,
    sinks: Tensor | None,
    gate: Tensor | None,
) -> None:
    """Write the rows of `out` that belong to sequences with more than one row; see `attention.attention`."""
    (kv_heads, key_size), value_size = cache.k.shape[1:], cache.v.shape[2]
    group = q.shape[1] // key_size // kv_heads
    n_sequences = block_table.shape[0]
    converted = cache.k.dtype == torch.int8
    tiles = prefill_tiles(card_of(q.device).family, max(key_size, value_size), group, converted=converted)
    scale, soft_cap = score_factors(options, key_size)
    tokens = tiles.rows // group
    grid = (q.shape[0] // tokens + n_sequences, kv_heads * tiles.value_parts)
    _attend_chunks[grid](
        out,
        q,
        cache.k,
        cache.v,
        cache.k_scales,
        cache.v_scales,
        sinks,
        gate,
        block_table,
        starts,
        positions,
        n_sequences,
        out.stride(0),
        q.stride(0),
        0 if gate is None else gate.stride(0),
        cache.k.stride(0),
        cache.k.stride(1),
        cache.v.stride(0),
        cache.v.stride(1),
        0 if cache.k_scales is None else cache.k_scales.stride(0),
        block_table.stride(0),
        scale,
        GROUP=group,
        TOKENS=tokens,
        K=key_size,
        K_PAD=triton.next_power_of_2(key_size),
        V=value_size,
        V_PAD=triton.next_power_of_2(value_size) // tiles.value_parts,
        VALUE_PARTS=tiles.value_parts,
        BLOCK_SIZE=block_size,
        WINDOW=options.window or 0,
        SOFT_CAP=soft_cap,
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.keys,
        MATRIX=matrix_type(q, cache.k),
        SEARCHED=SEARCHED,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


@triton.jit(do_not_specialize=["n_sequences"])  # it varies from step to step: no kernel for each kind of number
def _attend_chunks(
    out,
    q,
    k,
    v,
    k_scales,
    v_scales,
    sinks,
    gate,
    block_table,
    starts,
    positions,
    n_sequences,
    out_stride,
    q_stride,
    gate_stride,
    k_slot_stride,
    k_head_stride,
    v_slot_stride,  # looked at where V is not K, and keys and values lie differently
    v_head_stride,
    scale_stride,
    table_stride,
    scale,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,  # of a tile of queries
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    V: tl.constexpr,
    V_PAD: tl.constexpr,
    VALUE_PARTS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MATRIX: tl.constexpr,
    SEARCHED: tl.constexpr,
):
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # a prompt's last tokens see most: they come first
    head = tl.program_id(1) // VALUE_PARTS
    first_value = tl.program_id(1) % VALUE_PARTS * V_PAD
    sequence = -1
    for searched in range(0, n_sequences, SEARCHED):
        s = searched + tl.arange(0, SEARCHED)
        begins = tl.load(starts + s, mask=s < n_sequences, other=0) // TOKENS + s
        sequence += tl.sum(((begins <= tile) & (s < n_sequences)).to(tl.int32), 0)
    begin = tl.load(starts + sequence)
    end = tl.load(starts + sequence + 1)
    row = begin + (tile - begin // TOKENS - sequence) * TOKENS
    if (row >= end) | (end - begin < 2):  # sequences with one token are decode's
        return

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, K_PAD)
    token = row + m // GROUP
    mine = (m < TOKENS * GROUP) & (token < end)
    held = mine[:, None] & (d < K)[None, :]
    query_head = head * GROUP + m % GROUP
    column = query_head[:, None] * K
    rows = tl.load(q + token.to(tl.int64)[:, None] * q_stride + column + d[None, :], mask=held, other=0.0).to(MATRIX)

    first_at = tl.load(positions + row).to(tl.int32)
    last_at = first_at + tl.minimum(end - row, TOKENS).to(tl.int32) - 1
    row_at = first_at + m // GROUP
    blocks = block_table + sequence * table_stride
    k += head * k_head_stride
    v += head * (k_head_stride if K == V else v_head_stride)
    if k_scales is not None:
        k_scales += head
        v_scales += head
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if sinks is not None:  # a score that comes before all others
        highest = tl.load(sinks + query_head, mask=mine, other=0.0).to(tl.float32) * LOG2_E
        total += 1.0
    weighted = tl.zeros([BLOCK_M, V_PAD], tl.float32)

    # Keys from low to last_at, in three stretches: only the middle one is seen as a whole by every row.
    low = 0
    whole = 0
    stop = last_at + 1
    whole_end = (first_at + 1) // BLOCK_N * BLOCK_N
    if WINDOW:
        low = tl.maximum(first_at - (WINDOW - 1), 0)
        whole = tl.cdiv(tl.maximum(last_at - (WINDOW - 1), 0), BLOCK_N) * BLOCK_N
        whole = tl.minimum(whole, whole_end)
        for first in range(low // BLOCK_N * BLOCK_N, whole, BLOCK_N):
            highest, total, weighted = attend_tile(
                highest, total, weighted, rows, first_value, row_at, first, low, stop, blocks, k, v, k_scales, v_scales,
                k_slot_stride, v_slot_stride, scale_stride, scale, BLOCK_SIZE, WINDOW, SOFT_CAP, K, K_PAD, V, V_PAD,
                BLOCK_N, MATRIX, True,
            )  # fmt: skip
    for first in range(whole, whole_end, BLOCK_N):
        highest, total, weighted = attend_tile(
            highest, total, weighted, rows, first_value, row_at, first, low, stop, blocks, k, v, k_scales, v_scales,
            k_slot_stride, v_slot_stride, scale_stride, scale, BLOCK_SIZE, WINDOW, SOFT_CAP, K, K_PAD, V, V_PAD,
            BLOCK_N, MATRIX, False,
        )  # fmt: skip
    for first in range(whole_end, stop, BLOCK_N):
        highest, total, weighted = attend_tile(
            highest, total, weighted, rows, first_value, row_at, first, low, stop, blocks, k, v, k_scales, v_scales,
            k_slot_stride, v_slot_stride, scale_stride, scale, BLOCK_SIZE, WINDOW, SOFT_CAP, K, K_PAD, V, V_PAD,
            BLOCK_N, MATRIX, True,
        )  # fmt: skip

    result = weighted / total[:, None]
    value = first_value + tl.arange(0, V_PAD)
    written = mine[:, None] & (value < V)[None, :]
    column = column if K == V else query_head[:, None] * V
    if gate is not None:
        given = gate + token.to(tl.int64)[:, None] * gate_stride + column + value[None, :]
        result *= tl.sigmoid(tl.load(given, mask=written, other=0.0).to(tl.float32))
    to = out + token.to(tl.int64)[:, None] * out_stride + column + value[None, :]
    tl.store(to, result.to(out.dtype.element_ty), mask=written)
