"""From a file's rows of blocks to the layout of kernels/triton/layout.py, on the device that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.layout import BITS, PlanarWeight, padded
from rowspan.quant.blocks import Unpacked
from rowspan.quant.dequantize import QUANTIZED, dequantize
from rowspan.quant.scheme import SCHEMES, Scheme

# A GPU wants large pieces: one takes some 20 launches. Of each element, up to 16 bytes are held while it is repacked.
ELEMENTS_AT_ONCE = 1 << 23


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
    bits, width = BITS[scheme.name], padded(columns, BITS[scheme.name])

    def plane(columns_each: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, width // columns_each, dtype=dtype, device=device)

    sub_scales = scheme.has_sub_scales
    return PlanarWeight(
        codes=plane({8: 1, 4: 2, 6: 2, 2: 4}[bits], torch.uint8),
        high=plane(4, torch.uint8) if bits == 6 else None,
        scales=plane(scheme.block_size, torch.float16),
        minima=plane(scheme.block_size, torch.float16) if scheme.has_minima else None,
        sub_scales=plane(scheme.group, torch.int8) if sub_scales else None,
        sub_minima=plane(scheme.group, torch.int8) if sub_scales and scheme.has_minima else None,
        scheme=scheme.name,
        columns=columns,
    )


def _pack_rows(weight: PlanarWeight, rows: slice, unpacked: Unpacked) -> None:
    codes = torch.zeros(
        weight.codes[rows].shape[0], weight.padded_columns, dtype=torch.uint8, device=weight.codes.device
    )
    # In 8 bits, two's complement: Q8_0's code of -128 and zero of 128 give 0.
    codes[:, : weight.columns] = (unpacked.codes.view(torch.uint8) + weight.zero).view(-1, weight.columns)
    if weight.bits == 6:
        assert weight.high is not None
        weight.codes[rows] = _fields(codes & 15, bits=4)
        weight.high[rows] = _fields(codes >> 4, bits=2)
    else:
        weight.codes[rows] = _fields(codes, weight.bits)
    for plane, values in (
        (weight.scales, unpacked.scale),
        (weight.minima, unpacked.minimum),
        (weight.sub_scales, unpacked.sub_scales),
        (weight.sub_minima, unpacked.sub_minima),
    ):
        if plane is not None:
            assert values is not None
            numbers = values.reshape(codes.shape[0], -1)
            plane[rows, : numbers.shape[1]] = numbers.to(plane.dtype)


def _fields(codes: Tensor, bits: int) -> Tensor:
    """Codes of so many bits (rows, columns) → bytes, each of columns that are 16 apart."""
    if bits == 8:
        return codes
    each = 8 // bits
    apart = codes.view(codes.shape[0], -1, each, 16)
    packed = apart[:, :, 0].clone()
    for place in range(1, each):
        packed |= apart[:, :, place] << (bits * place)
    return packed.flatten(1)
