"""From raw blocks to what fast kernels compute with: plain codes, and a scale (and minimum) for each group of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rowspan.quant.blocks import Unpacked, values
from rowspan.quant.dequantize import DENSE, QUANTIZED, chunks, columns
from rowspan.quant.scheme import SCHEMES

SIGN_OFFSET = 8


@dataclass(frozen=True)
class Groups:
    """A matrix quantized in groups of columns: value = scale · code + minimum."""

    codes: torch.Tensor  # (rows, columns) int8
    scales: torch.Tensor  # (rows, columns // group) float32
    minima: torch.Tensor | None  # (rows, columns // group) float32; None: all zero
    group: int  # 16 or 32
    four_bit: bool  # all codes are in 0 … 15


def grouped(scheme_name: str, raw: torch.Tensor) -> Groups | None:
    """Take rows of blocks apart, on the device they are on.

    Values are preserved exactly, but for signs of zeros; only infinite scales, which no sound file has, may become NaN.

    Args:
        raw: (rows, bytes per row) uint8, as `Checkpoint.read` returns them.

    Returns:
        New tensors; None of the dense schemes (F32, F16, BF16).

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    if scheme_name in DENSE:
        return None
    scheme, unpack = SCHEMES[scheme_name], QUANTIZED[scheme_name]
    n_rows, n_columns = raw.shape[0], columns(scheme, raw)
    codes = torch.empty(n_rows, n_columns, dtype=torch.int8, device=raw.device)
    scales = torch.empty(n_rows, n_columns // scheme.group, device=raw.device)
    minima = torch.empty_like(scales) if scheme.has_minima else None
    for rows, blocks in chunks(scheme, raw):
        for whole, part in zip((codes, scales, minima), unpack(blocks), strict=True):
            if whole is not None and part is not None:
                whole[rows].view(part.shape).copy_(part)

    if scheme.four_bit and minima is None:
        # Half a byte has no sign: scale · code = scale · (code + 8) - 8 · scale. All three are exact, so is their sum.
        codes += SIGN_OFFSET
        minima = scales * -SIGN_OFFSET
    return Groups(codes, scales, minima, scheme.group, scheme.four_bit)


def ungroup(groups: Groups) -> torch.Tensor:
    """The matrix itself, (rows, columns) float32: the oracle of kernels that compute with `Groups`."""
    return values(Unpacked(groups.codes, groups.scales, groups.minima), groups.group)
