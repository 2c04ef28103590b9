"""Linear of a few tokens: bound by memory, which reads each weight once.

One program computes BLOCK_ROWS outputs over all columns, for all tokens; nothing is split over programs, since a model's
matrices have rows enough to keep all of a card's memory busy. Products and sums are float32 with the file's exact
values. Scales are applied to sums over 16 columns, which are one thread's: a weight then costs its unpacking, one
conversion, and one multiply-add for each token.

The bits of a token's outputs depend on the configuration only, not on the other tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.triton.configs import Narrow
from rowspan.kernels.triton.decode import tile_of_codes, tile_of_factors
from rowspan.kernels.triton.layout import PlanarWeight


@triton.jit
def narrow_kernel(
    x,
    codes,
    high,
    scales,
    minima,
    sub_scales,
    sub_minima,
    bias,
    y,
    tokens,
    rows,
    columns,
    padded_columns,
    x_stride,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    chunks: tl.constexpr = BLOCK_COLUMNS // 16
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.arange(0, TOKENS)
    x_row = x + (token * x_stride)[:, None]
    sums = tl.zeros((TOKENS, BLOCK_ROWS, chunks), tl.float32)
    for start in tl.range(0, padded_columns, BLOCK_COLUMNS, num_stages=STAGES):
        w = tile_of_codes(codes, high, inside, start, padded_columns, BITS, BLOCK_ROWS, BLOCK_COLUMNS)
        scale = tile_of_factors(scales, sub_scales, inside, start, padded_columns, GROUP, BLOCK_ROWS, BLOCK_COLUMNS)
        column = start + tl.arange(0, BLOCK_COLUMNS)
        given = (token < tokens)[:, None] & (column < columns)[None, :]
        v = tl.load(x_row + column[None, :], mask=given, other=0.0).to(tl.float32)
        v = tl.reshape(v, (TOKENS, 1, chunks, 16))
        part = tl.sum(tl.reshape(w.to(tl.float32), (1, BLOCK_ROWS, chunks, 16)) * v, axis=3)
        if ZERO or minima is not None:
            plain = tl.sum(v, axis=3)
            part -= ZERO * plain
        sums += part * _per_chunk(scale, GROUP, BLOCK_ROWS, chunks)
        if minima is not None:
            minimum = tile_of_factors(
                minima, sub_minima, inside, start, padded_columns, GROUP, BLOCK_ROWS, BLOCK_COLUMNS
            )
            sums += plain * _per_chunk(minimum, GROUP, BLOCK_ROWS, chunks)
    result = tl.sum(sums, axis=2)
    if bias is not None:
        result += tl.load(bias + inside).to(tl.float32)[None, :]
    written = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(y + (token * rows)[:, None] + row[None, :], result.to(y.dtype.element_ty), mask=written)


@triton.jit
def _per_chunk(factor, GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr):
    """(BLOCK_ROWS, groups) → (1, BLOCK_ROWS, CHUNKS): of each 16 columns."""
    if GROUP == 32:
        factor = tl.broadcast_to(factor[:, :, None], (BLOCK_ROWS, CHUNKS // 2, 2))
    return tl.reshape(factor, (1, BLOCK_ROWS, CHUNKS))


def linear(x: Tensor, weight: PlanarWeight, bias: Tensor | None, config: Narrow) -> Tensor:
    """(tokens, columns) → (tokens, rows), of at most `config.tokens` tokens."""
    tokens = x.shape[0]
    y = torch.empty(tokens, weight.rows, dtype=x.dtype, device=x.device)
    narrow_kernel[(triton.cdiv(weight.rows, config.block_rows),)](
        x,
        *weight.planes,
        bias,
        y,
        tokens,
        weight.rows,
        weight.columns,
        weight.padded_columns,
        x.stride(0),
        BITS=weight.bits,
        GROUP=weight.group,
        ZERO=weight.zero,
        TOKENS=config.tokens,
        BLOCK_ROWS=config.block_rows,
        BLOCK_COLUMNS=config.block_columns,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
    )
    return y
