"""Tiles of a `PlanarWeight`, unpacked in registers: what all kernels that read one begin with."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of_codes(
    codes, high, row, start, columns, BITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """Codes of BLOCK_COLUMNS columns from `start` on, in their order: uint8 (BLOCK_ROWS, BLOCK_COLUMNS).

    row: int64 (BLOCK_ROWS,), all of them there are. columns: the padded ones; beyond them codes are zero.
    """
    if BITS == 8:
        tile = _bytes(codes, row, start, columns, 1, BLOCK_COLUMNS)
    elif BITS == 2:
        tile = _pairs(_bytes(codes, row, start, columns, 4, BLOCK_COLUMNS), BLOCK_ROWS, BLOCK_COLUMNS)
    else:
        tile = _nibbles(_bytes(codes, row, start, columns, 2, BLOCK_COLUMNS), BLOCK_ROWS, BLOCK_COLUMNS)
        if BITS == 6:
            pairs = _pairs(_bytes(high, row, start, columns, 4, BLOCK_COLUMNS), BLOCK_ROWS, BLOCK_COLUMNS)
            tile |= pairs << 4
    return tile


@triton.jit
def tile_of_factors(
    factors,
    sub_factors,
    row,
    start,
    columns,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Scales or minima of the groups of a tile: float32 (BLOCK_ROWS, BLOCK_COLUMNS // GROUP); zero beyond the columns.

    sub_factors: None where a group has a float16 of its own.
    """
    group = start // GROUP + tl.arange(0, BLOCK_COLUMNS // GROUP)
    inside = (group < columns // GROUP)[None, :]
    if sub_factors is None:
        at = (row * (columns // GROUP))[:, None] + group[None, :]
        return tl.load(factors + at, mask=inside, other=0.0).to(tl.float32)
    at = (row * (columns // 256))[:, None] + (group // (256 // GROUP))[None, :]
    factor = tl.load(factors + at, mask=inside, other=0.0).to(tl.float32)
    at = (row * (columns // GROUP))[:, None] + group[None, :]
    return factor * tl.load(sub_factors + at, mask=inside, other=0).to(tl.float32)


@triton.jit
def _bytes(plane, row, start, columns, COLUMNS_EACH: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    byte = start // COLUMNS_EACH + tl.arange(0, BLOCK_COLUMNS // COLUMNS_EACH)
    width = columns // COLUMNS_EACH
    return tl.load(plane + (row * width)[:, None] + byte[None, :], mask=(byte < width)[None, :], other=0)


@triton.jit
def _nibbles(packed, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    packed = tl.reshape(packed, (BLOCK_ROWS, BLOCK_COLUMNS // 32, 16))
    fields = tl.join(packed & 15, packed >> 4)
    return tl.reshape(tl.permute(fields, (0, 1, 3, 2)), (BLOCK_ROWS, BLOCK_COLUMNS))


@triton.jit
def _pairs(packed, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    packed = tl.reshape(packed, (BLOCK_ROWS, BLOCK_COLUMNS // 64, 16))
    low, high = tl.join(packed & 3, (packed >> 2) & 3), tl.join((packed >> 4) & 3, packed >> 6)
    fields = tl.join(low, high)  # (…, 16, which of the two, low or high)
    return tl.reshape(tl.permute(fields, (0, 1, 4, 3, 2)), (BLOCK_ROWS, BLOCK_COLUMNS))
