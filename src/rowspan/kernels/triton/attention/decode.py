"""Attention of sequences with one new token each: bound by reading keys and values.

The context is cut into pieces at fixed positions, so that a lone sequence fills a card ("flash decoding"). A program
takes every so many-th piece; each piece's result, with the logarithm of its sum of weights, goes to scratch memory, and
a second kernel adds them up in order. Borders and order do not depend on how many programs there are: neither do bits.
It also counts sinks, once, and multiplies by gates.

All heads that share a KV head are rows of one product, so keys are read once. It has at least 16 rows, since matrix
units take no fewer: also a single head is faster there, as 16 operations a byte are still far below their peak.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.triton.attention.tile import LOG2_E, attend_tile, matrix_type, score_factors
from rowspan.kernels.triton.attention.tile_sizes import decode_tiles
from rowspan.kernels.triton.card_family import card_of

PIECE = 256  # positions, a multiple of every tile's: 16 k make 64 pieces a KV head. Results are 3 % of what is read
SCRATCH = 256 * 2**20  # bytes of partial results; more make pieces longer
PROGRAMS = 2048  # about as many as keep the largest cards busy to the end
MERGED = 32  # pieces added up at a time


def piece_length(n_sequences: int, n_heads: int, value_size: int, capacity: int) -> int:
    """Positions in a piece, from shapes alone: PIECE, unless scratch memory would be too large."""
    length = PIECE
    while n_sequences * n_heads * -(-capacity // length) * value_size * 4 > SCRATCH:
        length *= 2
    return length


def decode(
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
    """Write the rows of `out` that belong to sequences with exactly one row; see `attention.attention`."""
    (kv_heads, key_size), value_size = cache.k.shape[1:], cache.v.shape[2]
    n_heads = q.shape[1] // key_size
    group = n_heads // kv_heads
    n_sequences, max_blocks = block_table.shape
    length = piece_length(n_sequences, n_heads, value_size, max_blocks * block_size)
    max_pieces = -(-max_blocks * block_size // length)
    programs = min(max_pieces, max(1, PROGRAMS // (n_sequences * kv_heads)))
    parts = torch.empty((n_sequences, n_heads, max_pieces, value_size), dtype=torch.float32, device=q.device)
    logs = torch.empty((n_sequences, n_heads, max_pieces), dtype=torch.float32, device=q.device)
    tiles = decode_tiles(card_of(q.device).family, max(key_size, value_size), converted=cache.k.dtype == torch.int8)
    value_padded = triton.next_power_of_2(value_size)
    scale, soft_cap = score_factors(options, key_size)
    window = options.window or 0
    _attend_pieces[(programs, kv_heads * tiles.value_parts, n_sequences)](
        parts,
        logs,
        q,
        cache.k,
        cache.v,
        cache.k_scales,
        cache.v_scales,
        block_table,
        starts,
        positions,
        q.stride(0),
        cache.k.stride(0),
        cache.k.stride(1),
        cache.v.stride(0),
        cache.v.stride(1),
        0 if cache.k_scales is None else cache.k_scales.stride(0),
        block_table.stride(0),
        max_pieces,
        length,
        scale,
        KV_HEADS=kv_heads,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        K=key_size,
        K_PAD=triton.next_power_of_2(key_size),
        V=value_size,
        V_PAD=value_padded // tiles.value_parts,
        VALUE_PARTS=tiles.value_parts,
        BLOCK_SIZE=block_size,
        WINDOW=window,
        SOFT_CAP=soft_cap,
        BLOCK_N=tiles.keys,
        MATRIX=matrix_type(q, cache.k),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    _add_pieces[(n_heads, n_sequences)](
        out,
        parts,
        logs,
        sinks,
        gate,
        starts,
        positions,
        out.stride(0),
        0 if gate is None else gate.stride(0),
        max_pieces,
        length,
        V=value_size,
        V_PAD=value_padded,
        WINDOW=window,
        MERGED=MERGED,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["max_pieces"])  # it varies from step to step: no kernel for each kind of number
def _attend_pieces(
    parts,  # (S, heads, max_pieces, V): each piece's weighted mean of values …
    logs,  # (S, heads, max_pieces) … and log2 of its sum of weights
    q,
    k,
    v,
    k_scales,
    v_scales,
    block_table,
    starts,
    positions,
    q_stride,
    k_slot_stride,
    k_head_stride,
    v_slot_stride,  # looked at where V is not K, and keys and values lie differently
    v_head_stride,
    scale_stride,
    table_stride,
    max_pieces,
    length,  # of a piece
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    V: tl.constexpr,
    V_PAD: tl.constexpr,
    VALUE_PARTS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MATRIX: tl.constexpr,
):
    head = tl.program_id(1) // VALUE_PARTS
    first_value = tl.program_id(1) % VALUE_PARTS * V_PAD
    sequence = tl.program_id(2)
    row = tl.load(starts + sequence)
    if tl.load(starts + sequence + 1) - row != 1:
        return
    position = tl.load(positions + row).to(tl.int32)
    low = 0
    if WINDOW:
        low = tl.maximum(position - (WINDOW - 1), 0)

    g = tl.arange(0, ROWS)
    d = tl.arange(0, K_PAD)
    mine = (g < GROUP)[:, None] & (d < K)[None, :]
    heads = head * GROUP + g
    rows = tl.load(q + row.to(tl.int64) * q_stride + heads[:, None] * K + d[None, :], mask=mine, other=0.0).to(MATRIX)
    row_at = position + tl.zeros([ROWS], tl.int32)
    blocks = block_table + sequence * table_stride
    k += head * k_head_stride
    v += head * (k_head_stride if K == V else v_head_stride)
    if k_scales is not None:
        k_scales += head
        v_scales += head

    for piece in range(low // length + tl.program_id(0), position // length + 1, tl.num_programs(0)):
        highest = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        weighted = tl.zeros([ROWS, V_PAD], tl.float32)
        stop = tl.minimum((piece + 1) * length, position + 1)
        for first in range(tl.maximum(piece * length, low // BLOCK_N * BLOCK_N), stop, BLOCK_N):
            highest, total, weighted = attend_tile(
                highest,
                total,
                weighted,
                rows,
                first_value,
                row_at,
                first,
                low,
                stop,
                blocks,
                k,
                v,
                k_scales,
                v_scales,
                k_slot_stride,
                v_slot_stride,
                scale_stride,
                scale,
                BLOCK_SIZE,
                WINDOW,
                SOFT_CAP,
                K,
                K_PAD,
                V,
                V_PAD,
                BLOCK_N,
                MATRIX,
                True,
            )
        at = (sequence.to(tl.int64) * KV_HEADS * GROUP + heads) * max_pieces + piece
        value = first_value + tl.arange(0, V_PAD)
        written = (g < GROUP)[:, None] & (value < V)[None, :]
        tl.store(parts + at[:, None] * V + value[None, :], weighted / total[:, None], mask=written)
        tl.store(logs + at, highest + tl.log2(total), mask=g < GROUP)


@triton.jit(do_not_specialize=["max_pieces"])
def _add_pieces(
    out,
    parts,
    logs,
    sinks,
    gate,
    starts,
    positions,
    out_stride,
    gate_stride,
    max_pieces,
    length,
    V: tl.constexpr,
    V_PAD: tl.constexpr,
    WINDOW: tl.constexpr,
    MERGED: tl.constexpr,
):
    head = tl.program_id(0)
    sequence = tl.program_id(1)
    row = tl.load(starts + sequence)
    if tl.load(starts + sequence + 1) - row != 1:
        return
    position = tl.load(positions + row).to(tl.int32)
    begin = 0
    if WINDOW:
        begin = tl.maximum(position - (WINDOW - 1), 0) // length
    end = position // length + 1

    d = tl.arange(0, V_PAD)
    base = (sequence.to(tl.int64) * tl.num_programs(0) + head) * max_pieces
    highest = float("-inf")
    total = 0.0
    if sinks is not None:  # a score that comes before all others
        highest = tl.load(sinks + head).to(tl.float32) * LOG2_E
        total = 1.0
    weighted = tl.zeros([V_PAD], tl.float32)
    for first in range(begin // MERGED * MERGED, end, MERGED):
        piece = first + tl.arange(0, MERGED)
        there = (piece >= begin) & (piece < end)
        log = tl.load(logs + base + piece, mask=there, other=float("-inf"))
        part = tl.load(
            parts + (base + piece)[:, None] * V + d[None, :], mask=there[:, None] & (d < V)[None, :], other=0.0
        )
        new_highest = tl.maximum(highest, tl.max(log, 0))
        shrink = tl.exp2(highest - new_highest)
        weights = tl.exp2(log - new_highest)
        total = total * shrink + tl.sum(weights, 0)
        weighted = weighted * shrink + tl.sum(weights[:, None] * part, 0)
        highest = new_highest
    result = weighted / total
    if gate is not None:
        gates = tl.load(gate + row.to(tl.int64) * gate_stride + head * V + d, mask=d < V, other=0.0)
        result *= tl.sigmoid(gates.to(tl.float32))
    to = out + row.to(tl.int64) * out_stride + head * V + d
    tl.store(to, result.to(out.dtype.element_ty), mask=d < V)
