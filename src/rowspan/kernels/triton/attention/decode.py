"""Attention of sequences with one new token each: bound by reading keys and values.

The context is cut into pieces at fixed positions, so that a lone sequence fills a card ("flash decoding"). A program
takes every so many-th piece; each piece's result, with the logarithm of its sum of weights, goes to scratch memory, and
a second kernel adds them up in order. Borders and order do not depend on how many programs there are: neither do bits.

All heads that share a KV head are rows of one product, so keys are read once. It has at least 16 rows, since matrix
units take no fewer: also a single head is faster there, as 16 operations a byte are still far below their peak.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.triton.attention.tile import LOG2_E, attend_tile, matrix_type
from rowspan.kernels.triton.attention.tile_sizes import decode_tiles
from rowspan.kernels.triton.card_family import card_of

PIECE = 256  # positions, a multiple of every tile's: 16 k make 64 pieces a KV head. Results are 3 % of what is read
SCRATCH = 256 * 2**20  # bytes of partial results; more make pieces longer
PROGRAMS = 2048  # about as many as keep the largest cards busy to the end
MERGED = 32  # pieces added up at a time


def piece_length(n_sequences: int, n_heads: int, head_dim: int, capacity: int) -> int:
    """Positions in a piece, from shapes alone: PIECE, unless scratch memory would be too large."""
    length = PIECE
    while n_sequences * n_heads * -(-capacity // length) * head_dim * 4 > SCRATCH:
        length *= 2
    return length


def decode(
    out: Tensor,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    starts: Tensor,
    positions: Tensor,
    block_size: int,
    window: int | None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> None:
    """Write the rows of `out` that belong to sequences with exactly one row; see `attention.attention`."""
    kv_heads, head_dim = k_cache.shape[1:]
    n_heads = q.shape[1] // head_dim
    group = n_heads // kv_heads
    n_sequences, max_blocks = block_table.shape
    length = piece_length(n_sequences, n_heads, head_dim, max_blocks * block_size)
    max_pieces = -(-max_blocks * block_size // length)
    programs = min(max_pieces, max(1, PROGRAMS // (n_sequences * kv_heads)))
    parts = torch.empty((n_sequences, n_heads, max_pieces, head_dim), dtype=torch.float32, device=q.device)
    logs = torch.empty((n_sequences, n_heads, max_pieces), dtype=torch.float32, device=q.device)
    tiles = decode_tiles(card_of(q.device).family, head_dim, converted=k_cache.dtype == torch.int8)
    padded = triton.next_power_of_2(head_dim)
    _attend_pieces[(programs, kv_heads * tiles.value_parts, n_sequences)](
        parts,
        logs,
        q,
        k_cache,
        v_cache,
        k_scales,
        v_scales,
        block_table,
        starts,
        positions,
        q.stride(0),
        k_cache.stride(0),
        k_cache.stride(1),
        0 if k_scales is None else k_scales.stride(0),
        block_table.stride(0),
        max_pieces,
        length,
        head_dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        D=head_dim,
        D_PAD=padded,
        VALUE_PARTS=tiles.value_parts,
        BLOCK_SIZE=block_size,
        WINDOW=window or 0,
        BLOCK_N=tiles.keys,
        MATRIX=matrix_type(q, k_cache),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    _add_pieces[(n_heads, n_sequences)](
        out,
        parts,
        logs,
        starts,
        positions,
        out.stride(0),
        max_pieces,
        length,
        D=head_dim,
        D_PAD=padded,
        WINDOW=window or 0,
        MERGED=MERGED,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["max_pieces"])  # it varies from step to step: no kernel for each kind of number
def _attend_pieces(
    parts,  # (S, heads, max_pieces, D): each piece's weighted mean of values …
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
    slot_stride,
    head_stride,
    scale_stride,
    table_stride,
    max_pieces,
    length,  # of a piece
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    VALUE_PARTS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MATRIX: tl.constexpr,
):
    V_PAD: tl.constexpr = D_PAD // VALUE_PARTS
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
    d = tl.arange(0, D_PAD)
    mine = (g < GROUP)[:, None] & (d < D)[None, :]
    heads = head * GROUP + g
    rows = tl.load(q + row.to(tl.int64) * q_stride + heads[:, None] * D + d[None, :], mask=mine, other=0.0).to(MATRIX)
    row_at = position + tl.zeros([ROWS], tl.int32)
    blocks = block_table + sequence * table_stride
    k += head * head_stride
    v += head * head_stride
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
                slot_stride,
                scale_stride,
                scale,
                BLOCK_SIZE,
                WINDOW,
                D,
                D_PAD,
                V_PAD,
                BLOCK_N,
                MATRIX,
                True,
            )
        at = (sequence.to(tl.int64) * KV_HEADS * GROUP + heads) * max_pieces + piece
        value = first_value + tl.arange(0, V_PAD)
        written = (g < GROUP)[:, None] & (value < D)[None, :]
        tl.store(parts + at[:, None] * D + value[None, :], weighted / total[:, None], mask=written)
        tl.store(logs + at, highest + tl.log2(total), mask=g < GROUP)


@triton.jit(do_not_specialize=["max_pieces"])
def _add_pieces(
    out,
    parts,
    logs,
    starts,
    positions,
    out_stride,
    max_pieces,
    length,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
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

    d = tl.arange(0, D_PAD)
    base = (sequence.to(tl.int64) * tl.num_programs(0) + head) * max_pieces
    highest = float("-inf")
    total = 0.0
    weighted = tl.zeros([D_PAD], tl.float32)
    for first in range(begin // MERGED * MERGED, end, MERGED):
        piece = first + tl.arange(0, MERGED)
        there = (piece >= begin) & (piece < end)
        log = tl.load(logs + base + piece, mask=there, other=float("-inf"))
        part = tl.load(
            parts + (base + piece)[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0
        )
        new_highest = tl.maximum(highest, tl.max(log, 0))
        shrink = tl.exp2(highest - new_highest)
        weights = tl.exp2(log - new_highest)
        total = total * shrink + tl.sum(weights, 0)
        weighted = weighted * shrink + tl.sum(weights[:, None] * part, 0)
        highest = new_highest
    to = out + row.to(tl.int64) * out_stride + head * D + d
    tl.store(to, (weighted / total).to(out.dtype.element_ty), mask=d < D)
