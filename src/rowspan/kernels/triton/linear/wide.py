"""Linear of many tokens on the matrix units: weights are unpacked in registers, rounded to the activations' type, and
multiplied there; sums are float32.

The transposed product W · xᵀ is computed, so that unpacked weights are the left operand, and tokens, which may be few,
the right one, of which 16 fill a tile. A tile's scales are loaded one step ahead, since they are too few for Triton to
pipeline their loads through shared memory as it does those of codes and activations.

Where there are too few tiles for a card, the columns are split: each part writes float32 sums, which a second kernel
adds up in order. The bits of a token's outputs depend on the configuration only, not on the other tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.triton.linear.codes import ONE, load_factors, tile_of_codes
from rowspan.kernels.triton.linear.configs import Wide
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.parts import add_parts, outputs, units_of_part


@triton.jit
def wide_kernel(
    x,
    codes,
    high,
    scales,
    minima,
    sub_scales,
    sub_minima,
    row_scales,
    bias,
    y,
    tokens,
    rows,
    columns,
    units,
    one,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    TABLE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BAND: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute outputs. y: (SPLIT, tokens, rows); float32 unless SPLIT is 1."""
    first_row, first_token = _tile_of_program(
        tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(tokens, BLOCK_TOKENS), BLOCK_ROWS, BLOCK_TOKENS, BAND
    )
    row = first_row + tl.arange(0, BLOCK_ROWS)
    token = first_token + tl.arange(0, BLOCK_TOKENS)
    inside = tl.minimum(row, rows - 1).to(tl.int64)
    x_row = x + tl.minimum(token, tokens - 1).to(tl.int64)[None, :] * columns

    part = tl.program_id(1)
    begin, end = units_of_part(part, units, UNITS, SPLIT)

    sums = tl.zeros((BLOCK_ROWS, BLOCK_TOKENS), tl.float32)
    groups = units * UNIT // GROUP
    group = begin * UNIT // GROUP + tl.arange(0, UNITS * UNIT // GROUP)
    scale = load_factors(scales, sub_scales, inside, group, groups, GROUP)
    if minima is not None:
        minimum = load_factors(minima, sub_minima, inside, group, groups, GROUP)
    for first in tl.range(begin, end, UNITS, num_stages=STAGES):
        code = tile_of_codes(codes, high, inside, first, units, one, BITS, ZERO, TABLE, BLOCK_ROWS, UNITS, UNITS * UNIT)
        column = first * UNIT + tl.arange(0, UNITS * UNIT)
        v = tl.load(x_row + column[:, None], mask=(column < columns)[:, None], other=0.0)
        w = tl.reshape(code, (BLOCK_ROWS, UNITS * UNIT // GROUP, GROUP)) * scale[:, :, None]
        if minima is not None:
            w += minimum[:, :, None]
        w = tl.reshape(w, (BLOCK_ROWS, UNITS * UNIT)).to(x.dtype.element_ty)
        sums = tl.dot(w, v, sums)
        group += UNITS * UNIT // GROUP
        scale = load_factors(scales, sub_scales, inside, group, groups, GROUP)
        if minima is not None:
            minimum = load_factors(minima, sub_minima, inside, group, groups, GROUP)
    if row_scales is not None:
        sums *= tl.load(row_scales + inside)[:, None]
    if bias is not None:
        sums += tl.load(bias + inside).to(tl.float32)[:, None]
    at = y + ((part.to(tl.int64) * tokens + token) * rows)[None, :] + row[:, None]
    tl.store(at, sums.to(y.dtype.element_ty), mask=(token < tokens)[None, :] & (row < rows)[:, None])


@triton.jit
def _tile_of_program(row_tiles, token_tiles, BLOCK_ROWS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BAND: tl.constexpr):
    """The tile that a program computes. Programs that run at the same time share weights and activations in L2: they go
    through the tiles in bands, BAND tiles of rows high.
    """
    program = tl.program_id(0)
    band = program // (BAND * token_tiles)
    height = tl.minimum(row_tiles - band * BAND, BAND)
    place = program % (BAND * token_tiles)
    return (band * BAND + place % height) * BLOCK_ROWS, (place // height) * BLOCK_TOKENS


def linear(x: Tensor, weight: PlanarWeight, bias: Tensor | None, config: Wide, dtype: torch.dtype) -> Tensor:
    """x @ weight.T, (tokens, columns) → (tokens, rows)."""
    tokens, rows, split = x.shape[0], weight.rows, config.split
    y, parts = outputs(x, rows, split, dtype)
    tiles = triton.cdiv(rows, config.block_rows) * triton.cdiv(tokens, config.block_tokens)
    wide_kernel[(tiles, split)](
        x,
        *weight.planes,
        bias if split == 1 else None,
        parts,
        tokens,
        rows,
        weight.columns,
        weight.units,
        ONE,
        BITS=weight.bits,
        UNIT=weight.unit,
        GROUP=weight.group,
        ZERO=weight.zero,
        TABLE=weight.table,
        BLOCK_TOKENS=config.block_tokens,
        BLOCK_ROWS=config.block_rows,
        UNITS=config.block_columns // weight.unit,
        SPLIT=split,
        BAND=config.band,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
    )
    if split > 1:
        add_parts(parts, bias, y)
    return y
