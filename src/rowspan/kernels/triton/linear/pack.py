"""From a file's rows of blocks to the layout of kernels/triton/linear/layout.py, on the device that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.linear.layout import BITS, UNIT, PlanarWeight, units
from rowspan.quant.dequantize import QUANTIZED, dequantize
from rowspan.quant.scheme import SCHEMES, Scheme
from rowspan.quant.unpacking import UnpackedBlocks

# A GPU wants large pieces: one takes some 20 launches. Of each element, up to 16 bytes are held while it is repacked.
ELEMENTS_AT_ONCE = 1 << 23
FIELDS = {8: (1, 2), 4: (1, 4), 2: (2, 4)}  # by bits of a code: parts of a unit's columns, and bytes of a word for each


def pack(scheme_name: str, raw: Tensor, dtype: torch.dtype) -> PlanarWeight | DenseWeight:
    """Repack a matrix; codes, scales and minima are preserved exactly.

    Up to 128 MiB are held beside `raw` and the result.

    Args:
        raw: (rows, bytes per row) uint8, on any device; rows may lie apart, as those of a column cut do.
        dtype: of a dense weight: F32, F16 and BF16 are rounded to it.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    scheme = SCHEMES[scheme_name]
    if scheme.is_dense:
        return DenseWeight(dequantize(scheme_name, raw, dtype))
    weight = _empty(scheme, raw.shape[0], scheme.columns(raw.shape[1]), raw.device)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, weight.columns))
    for first in range(0, weight.rows if weight.columns else 0, rows_at_once):
        rows = slice(first, first + rows_at_once)
        _pack_rows(weight, rows, QUANTIZED[scheme_name](raw[rows].reshape(-1, scheme.block_bytes)))
    return weight


def _empty(scheme: Scheme, rows: int, columns: int, device: torch.device) -> PlanarWeight:
    bits = BITS[scheme.name]
    width = units(columns, bits) * UNIT[bits]

    def plane(columns_each: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, width // columns_each, dtype=dtype, device=device)

    sub_scales = scheme.has_sub_scales
    return PlanarWeight(
        codes=plane({8: 4, 4: 8, 6: 8, 2: 16}[bits], torch.int32),
        high=plane(16, torch.int32) if bits == 6 else None,
        scales=plane(scheme.block_size, torch.float16),
        minima=plane(scheme.block_size, torch.float16) if scheme.has_minima else None,
        sub_scales=plane(scheme.group, torch.int8) if sub_scales else None,
        sub_minima=plane(scheme.group, torch.int8) if sub_scales and scheme.has_minima else None,
        scheme=scheme.name,
        columns=columns,
    )


def _pack_rows(weight: PlanarWeight, rows: slice, unpacked: UnpackedBlocks) -> None:
    n_rows, device = weight.codes[rows].shape[0], weight.codes.device
    codes = torch.zeros(n_rows, weight.units * weight.unit, dtype=torch.uint8, device=device)
    # In 8 bits, two's complement: Q8_0's code of -128 and zero of 128 give 0.
    codes[:, : weight.columns] = (unpacked.codes.view(torch.uint8) + weight.zero).view(-1, weight.columns)
    if weight.bits == 6:
        assert weight.high is not None
        weight.codes[rows] = _words(codes & 15, bits=4)
        weight.high[rows] = _words(codes >> 4, bits=2)
    else:
        weight.codes[rows] = _words(codes, weight.bits)
    for plane, values in (
        (weight.scales, unpacked.scale),
        (weight.minima, unpacked.minimum),
        (weight.sub_scales, unpacked.sub_scales),
        (weight.sub_minima, unpacked.sub_minima),
    ):
        if plane is not None:
            assert values is not None
            numbers = values.reshape(n_rows, -1)
            plane[rows, : numbers.shape[1]] = numbers.to(plane.dtype)


def _words(codes: Tensor, bits: int) -> Tensor:
    """Codes of so many bits (rows, columns) → int32 (rows, words), in the order of layout.py."""
    parts, bytes_ = FIELDS[bits]
    # rows, units, part, byte (of 8 bits, two of them), word, odd → bytes of a word side by side, what shares one behind
    ordered = codes.view(codes.shape[0], -1, parts, bytes_, 4, 2).permute(0, 1, 4, 3, 2, 5)
    fields = ordered.reshape(codes.shape[0], -1, 8 // bits)
    packed = fields[:, :, 0].clone()
    for place in range(1, 8 // bits):
        packed |= fields[:, :, place] << (bits * place)
    return packed.view(torch.int32)
