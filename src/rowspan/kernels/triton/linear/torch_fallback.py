"""Unpacks the layout of kernels/triton/linear/layout.py in plain torch, and multiplies with it: for cards that none of
Triton's kernels for `PlanarWeight` can run on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.torch.linear import product_by_pieces
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import FIELDS
from rowspan.quant.scheme import SCHEMES
from rowspan.quant.schemes.mxfp4 import powers
from rowspan.quant.schemes.nvfp4 import halved_e4m3
from rowspan.quant.schemes.tables import table_of


def linear(x: Tensor, weight: PlanarWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x @ weight.T + bias, (tokens, columns) → (tokens, rows), computed in `dtype`."""
    shape = (weight.rows, weight.columns)
    y = product_by_pieces(x.to(dtype), shape, lambda rows: unpack(weight, rows).to(dtype))
    return y if bias is None else y.add_(bias)


def unpack(weight: PlanarWeight, rows: slice) -> Tensor:
    """Some rows of the matrix, exactly: float32 (rows, columns)."""
    if weight.bits == 6:
        assert weight.high is not None
        codes = _codes(weight.codes[rows], 4) | _codes(weight.high[rows], 2) << 4
    else:
        codes = _codes(weight.codes[rows], weight.bits)
    table = SCHEMES[weight.scheme].table
    numbers = table_of(weight.scheme, codes)[codes.int()] if table else codes
    groups = numbers.view(len(codes), -1, weight.group)
    values = (groups.float() - weight.zero) * _factors(weight.scales, weight.sub_scales, rows)
    if weight.minima is not None:
        values += _factors(weight.minima, weight.sub_minima, rows)
    if weight.row_scales is not None:
        values *= weight.row_scales[rows, None, None]
    return values.flatten(1)[:, : weight.columns]


def _codes(words: Tensor, bits: int) -> Tensor:
    """Undo pack's `_words`: int32 (rows, words) → uint8 (rows, columns)."""
    parts, bytes_ = FIELDS[bits]
    packed = words.view(torch.uint8)
    fields = torch.stack([packed >> place & (1 << bits) - 1 for place in range(0, 8, bits)], dim=-1)
    ordered = fields.view(len(words), -1, 4, bytes_, parts, 2)
    return ordered.permute(0, 1, 4, 3, 2, 5).reshape(len(words), -1)


def _factors(plane: Tensor, sub: Tensor | None, rows: slice) -> Tensor:
    """Scales or minima of each group, float32 (rows, groups, 1)."""
    number = {torch.uint8: powers, torch.int8: halved_e4m3}.get(plane.dtype, torch.Tensor.float)
    factors = number(plane[rows])
    if sub is not None:
        each = sub.shape[1] // plane.shape[1]
        factors = factors.repeat_interleave(each, dim=1) * sub[rows].float()
    return factors[:, :, None]
