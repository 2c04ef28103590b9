"""Converts a file's rows of blocks into the layout of kernels/triton/linear/layout.py, on the device that holds
them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.linear.layout import BITS, UNIT, PlanarWeight, units
from rowspan.quant.dequantize import PLANAR, dequantize
from rowspan.quant.planar import Planar
from rowspan.quant.scheme import SCHEMES, Scheme
from rowspan.quant.schemes.mxfp4 import exponents
from rowspan.quant.schemes.nvfp4 import e4m3_bits
from rowspan.quant.stored import BLOCKS

# A GPU wants large pieces: one takes some 20 launches. Of each element, up to 16 bytes are held while it is repacked.
ELEMENTS_AT_ONCE = 1 << 23
FIELDS = {8: (1, 2), 4: (1, 4), 2: (2, 4)}  # by bits of a code: parts of a unit's columns, and bytes of a word for each


def pack(
    scheme_name: str, raw: Tensor, dtype: torch.dtype, row_scales: Tensor | None = None
) -> PlanarWeight | DenseWeight:
    """Repack a matrix; codes, scales and minima are preserved exactly.

    Up to 128 MiB are held beside `raw` and the result.

    Args:
        raw: (rows, bytes per row) uint8, on any device; rows may lie apart, as those of a column cut do.
        dtype: type of a dense weight: F32, F16 and BF16 are rounded to it.
        row_scales: float32 (rows,), factors of rows' products; None: all 1.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    scheme = SCHEMES[scheme_name]
    if scheme.is_dense:
        if row_scales is None:
            return DenseWeight(dequantize(scheme_name, raw, dtype))
        return DenseWeight((dequantize(scheme_name, raw) * row_scales[:, None]).to(dtype))
    weight = _empty(scheme, raw.shape[0], scheme.columns(raw.shape[1]), raw.device)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, weight.columns))
    for first in range(0, weight.rows if weight.columns else 0, rows_at_once):
        rows = slice(first, first + rows_at_once)
        _pack_rows(weight, rows, PLANAR[scheme_name]({BLOCKS: raw[rows]}))
    return replace(weight, row_scales=row_scales)


def _empty(scheme: Scheme, rows: int, columns: int, device: torch.device) -> PlanarWeight:
    bits = BITS[scheme.name]
    width = units(columns, bits) * UNIT[bits]

    def plane(columns_each: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, width // columns_each, dtype=dtype, device=device)

    sub_scales = scheme.has_sub_scales
    return PlanarWeight(
        codes=plane({8: 4, 4: 8, 6: 8, 2: 16}[bits], torch.int32),
        high=plane(16, torch.int32) if bits == 6 else None,
        scales=plane(scheme.scaled_columns, _scale_type(scheme)),
        minima=plane(scheme.block_size, torch.float16) if scheme.has_minima else None,
        sub_scales=plane(scheme.group, torch.int8) if sub_scales else None,
        sub_minima=plane(scheme.group, torch.int8) if sub_scales and scheme.has_minima else None,
        row_scales=None,
        scheme=scheme.name,
        columns=columns,
    )


def _scale_type(scheme: Scheme) -> torch.dtype:
    return torch.uint8 if scheme.has_exponents else torch.int8 if scheme.has_e4m3 else torch.float16


def _pack_rows(weight: PlanarWeight, rows: slice, planar: Planar) -> None:
    n_rows, device = weight.codes[rows].shape[0], weight.codes.device
    codes = torch.zeros(n_rows, weight.units * weight.unit, dtype=torch.uint8, device=device)
    # In 8 bits, two's complement: Q8_0's code of -128 and zero of 128 give 0.
    codes[:, : weight.columns] = planar.codes.view(torch.uint8) + weight.zero
    if weight.bits == 6:
        assert weight.high is not None
        weight.codes[rows] = _words(codes & 15, bits=4)
        weight.high[rows] = _words(codes >> 4, bits=2)
    else:
        weight.codes[rows] = _words(codes, weight.bits)
    for plane, values in (
        (weight.scales, _scales(weight, planar)),
        (weight.minima, planar.minima),
        (weight.sub_scales, planar.sub_scales),
        (weight.sub_minima, planar.sub_minima),
    ):
        if plane is not None:
            assert values is not None
            plane[rows, : values.shape[1]] = values.to(plane.dtype)


def _scales(weight: PlanarWeight, planar: Planar) -> Tensor | None:
    to_bits = {torch.uint8: exponents, torch.int8: e4m3_bits}.get(weight.scales.dtype)
    return planar.scales if planar.scales is None or to_bits is None else to_bits(planar.scales)


def _words(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of so many bits, (rows, columns), into words: int32 (rows, words), in the order of layout.py."""
    parts, bytes_ = FIELDS[bits]
    # rows, units, part, byte (of 8 bits, two of them), word, odd → bytes of a word side by side, what shares one behind
    ordered = codes.view(codes.shape[0], -1, parts, bytes_, 4, 2).permute(0, 1, 4, 3, 2, 5)
    fields = ordered.reshape(codes.shape[0], -1, 8 // bits)
    packed = fields[:, :, 0].clone()
    for place in range(1, 8 // bits):
        packed |= fields[:, :, place] << (bits * place)
    return packed.view(torch.int32)
