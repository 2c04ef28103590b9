"""Linear for very many tokens: a piece of the matrix at a time is unpacked to the activations' type and multiplied by
the vendor's GEMM. The cost of unpacking does not grow with the tokens, and no kernel of ours multiplies faster.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.torch.linear import float_product
from rowspan.kernels.triton.linear.codes import ONE, load_factors, tile_of_codes
from rowspan.kernels.triton.linear.configs import Unpacked
from rowspan.kernels.triton.linear.layout import PlanarWeight

BLOCK_ROWS, BLOCK_COLUMNS = 8, 512  # of a program that only unpacks: 16 KB of the result, 32 numbers for each thread


@triton.jit
def unpack_kernel(
    codes,
    high,
    scales,
    minima,
    sub_scales,
    sub_minima,
    row_scales,
    y,
    first_row,
    rows,
    columns,
    units,
    one,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    TABLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Unpack rows from first_row on into y (rows, columns), contiguous."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first = tl.program_id(1) * UNITS
    inside = (first_row + tl.minimum(row, rows - 1)).to(tl.int64)
    code = tile_of_codes(codes, high, inside, first, units, one, BITS, ZERO, TABLE, BLOCK_ROWS, UNITS, UNITS * UNIT)
    groups = units * UNIT // GROUP
    group = first * UNIT // GROUP + tl.arange(0, UNITS * UNIT // GROUP)
    scale = load_factors(scales, sub_scales, inside, group, groups, GROUP)
    w = tl.reshape(code, (BLOCK_ROWS, UNITS * UNIT // GROUP, GROUP)) * scale[:, :, None]
    if minima is not None:
        w += load_factors(minima, sub_minima, inside, group, groups, GROUP)[:, :, None]
    if row_scales is not None:
        w *= tl.load(row_scales + inside)[:, None, None]
    column = first * UNIT + tl.arange(0, UNITS * UNIT)
    given = (row < rows)[:, None] & (column < columns)[None, :]
    at = y + (row.to(tl.int64) * columns)[:, None] + column[None, :]
    tl.store(at, tl.reshape(w, (BLOCK_ROWS, UNITS * UNIT)).to(y.dtype.element_ty), mask=given)


def unpack(weight: PlanarWeight, first_row: int, out: Tensor) -> None:
    """Unpack as many rows as `out` (rows, columns) has, from `first_row` on."""
    rows = out.shape[0]
    unpack_kernel[(triton.cdiv(rows, BLOCK_ROWS), triton.cdiv(weight.columns, BLOCK_COLUMNS))](
        *weight.planes,
        out,
        first_row,
        rows,
        weight.columns,
        weight.units,
        ONE,
        BITS=weight.bits,
        UNIT=weight.unit,
        GROUP=weight.group,
        ZERO=weight.zero,
        TABLE=weight.table,
        BLOCK_ROWS=BLOCK_ROWS,
        UNITS=BLOCK_COLUMNS // weight.unit,
    )


def linear(x: Tensor, weight: PlanarWeight, bias: Tensor | None, config: Unpacked, dtype: torch.dtype) -> Tensor:
    """x @ weight.T, (tokens, columns) → (tokens, rows), in x's type or float32."""
    y = torch.empty(x.shape[0], weight.rows, dtype=dtype, device=x.device)
    scratch = torch.empty(min(config.rows_at_once, weight.rows), weight.columns, dtype=x.dtype, device=x.device)
    for first in range(0, weight.rows, config.rows_at_once):
        piece = scratch[: weight.rows - first]
        unpack(weight, first, piece)
        out = y[:, first : first + piece.shape[0]]
        if dtype == x.dtype:
            torch.mm(x, piece.T, out=out)
        else:
            out.copy_(float_product(x, piece))
    return y if bias is None else y.add_(bias)
