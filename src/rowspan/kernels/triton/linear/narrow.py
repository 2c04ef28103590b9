"""Linear of a few tokens: bound by memory, which reads each weight once.

One program computes BLOCK_ROWS outputs over all columns, for all tokens, and its warps share the columns out among
them. Only where rows are too few for a card, columns are split over programs, too, which costs a second launch.
Products and sums are float32 with the file's exact values, and a scale is applied to a thread's sum over its columns in
the group.

An H200's processor can spend some 7 instructions on each byte that it gets from memory, half of them on integers, so
all that is done to a weight is: cut it out of its word into a float32 (codes.py), subtract, multiply and add.
Activations are loaded as pairs, of which every thread gets just those of its own codes' columns, 16 bytes of either at
once: nothing is exchanged between threads before the last sum. What that comes to is in docs/gpu.md.

The bits of a token's outputs depend on the configuration only, not on the other tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.triton.linear.codes import ONE, code, load_factors, load_words
from rowspan.kernels.triton.linear.configs import Narrow
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.parts import add_parts, outputs, units_of_part


@triton.jit
def narrow_kernel(
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
    BFLOAT: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    ZERO: tl.constexpr,
    TABLE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute outputs. x: pairs of columns, int32 (tokens, columns / 2). y: (SPLIT, tokens, rows); float32 unless SPLIT
    is 1.
    """
    eights: tl.constexpr = (GROUP if GROUP < UNIT else UNIT) // 8  # pairs of words' columns that share a scale
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = tl.minimum(row, rows - 1).to(tl.int64)
    token = tl.arange(0, TOKENS)
    unit, word = tl.arange(0, UNITS), tl.arange(0, 4 * UNITS)
    pair = word // 4 * (UNIT // 2) + word % 4
    sums = tl.zeros((TOKENS, BLOCK_ROWS, UNITS), tl.float32)
    part = tl.program_id(1)
    begin, end = units_of_part(part, units, UNITS, SPLIT)
    for first in tl.range(begin, end, UNITS, num_stages=STAGES):
        words = load_words(codes, high, inside, first, units, BITS, UNITS)
        for place in tl.static_range(UNIT // 8 // eights):
            products = tl.zeros((TOKENS, BLOCK_ROWS, 4 * UNITS), tl.float32)
            if minima is not None:
                plain = tl.zeros((TOKENS, 1, 4 * UNITS), tl.float32)
            for eight in tl.static_range(place * eights, (place + 1) * eights):
                at = first * (UNIT // 2) + pair + 4 * eight
                given = (token < tokens)[:, None] & (at < columns // 2)[None, :]
                pairs = tl.load(x + (token * (columns // 2))[:, None] + at[None, :], mask=given, other=0)
                for odd in tl.static_range(2):
                    # Reshaped, not indexed with None: layouts follow, and nothing is exchanged.
                    v = tl.reshape(_one_of_pair(pairs, odd, BFLOAT), (TOKENS, 1, 4 * UNITS))
                    w = code(words, one, _part(eight, odd, BITS), _byte(eight, odd, BITS), BITS, ZERO, TABLE)
                    products += tl.reshape(w, (1, BLOCK_ROWS, 4 * UNITS)) * v
                    if minima is not None:
                        plain += v
            group = first * UNIT // GROUP + (unit * UNIT // GROUP + place)
            groups = units * UNIT // GROUP
            scale = load_factors(scales, sub_scales, inside, group, groups, GROUP)
            product = _sum_of_words(products, TOKENS, BLOCK_ROWS, UNITS)
            sums += product * tl.reshape(scale, (1, BLOCK_ROWS, UNITS))
            if minima is not None:
                minimum = load_factors(minima, sub_minima, inside, group, groups, GROUP)
                sums += _sum_of_words(plain, TOKENS, 1, UNITS) * tl.reshape(minimum, (1, BLOCK_ROWS, UNITS))
    result = tl.sum(sums, axis=2)
    if row_scales is not None:
        result *= tl.load(row_scales + inside)[None, :]
    if bias is not None:
        result += tl.load(bias + inside).to(tl.float32)[None, :]
    written = (token < tokens)[:, None] & (row < rows)[None, :]
    at = y + ((part.to(tl.int64) * tokens + token) * rows)[:, None] + row[None, :]
    tl.store(at, result.to(y.dtype.element_ty), mask=written)


@triton.constexpr_function
def _part(eight: int, odd: int, bits: int) -> int:
    """The part, in codes.py's sense, that holds the columns 8 eight + 2 w + odd of a unit."""
    return {8: 0, 4: odd}.get(bits, eight // 4 * 2 + odd)


@triton.constexpr_function
def _byte(eight: int, odd: int, bits: int) -> int:
    return 2 * eight + odd if bits == 8 else eight % 4


@triton.jit
def _one_of_pair(pairs, ODD: tl.constexpr, BFLOAT: tl.constexpr):
    """One of two 16-bit numbers, as float32."""
    if BFLOAT:  # the upper half of a float32
        bits = pairs & -65536 if ODD else pairs << 16
        return bits.to(tl.float32, bitcast=True)
    else:
        half = (pairs >> 16 if ODD else pairs).to(tl.int16)
        return half.to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _sum_of_words(numbers, TOKENS: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr):
    return tl.sum(tl.reshape(numbers, (TOKENS, ROWS, UNITS, 4)), axis=3)


def linear(x: Tensor, weight: PlanarWeight, bias: Tensor | None, config: Narrow, dtype: torch.dtype) -> Tensor:
    """x @ weight.T, (tokens, columns), contiguous → (tokens, rows), for at most `config.tokens` tokens."""
    split = config.split
    y, parts = outputs(x, weight.rows, split, dtype)
    narrow_kernel[(triton.cdiv(weight.rows, config.block_rows), split)](
        x.view(torch.int32),
        *weight.planes,
        bias if split == 1 else None,
        parts,
        x.shape[0],
        weight.rows,
        weight.columns,
        weight.units,
        ONE,
        BFLOAT=x.dtype == torch.bfloat16,
        BITS=weight.bits,
        UNIT=weight.unit,
        GROUP=weight.group,
        ZERO=weight.zero,
        TABLE=weight.table,
        TOKENS=config.tokens,
        BLOCK_ROWS=config.block_rows,
        UNITS=config.units,
        SPLIT=split,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
    )
    if split > 1:
        add_parts(parts, bias, y)
    return y
