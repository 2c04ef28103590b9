"""IQ1_S and IQ1_M: 256 elements -1, 0 or 1, a point of a grid for each 8, shifted by 1/8 up or down. A code is the
element + 1, and 8 more if it is shifted down; scales are `d * (2 * n + 1)`, n of 3 bits.

IQ1_S: n and the shift are those of 32 elements. Block: d float16 · index[32] · word[8], of 16 bits: for each of four
indices its high 3 bits, then n and the shift.
IQ1_M: n is that of 16 elements, the shift of 8. Block: index[32] · high[16] · word[4], of 16 bits: four n; the top 4
bits of all words are d, the lowest first. Each half of a byte of `high` is an index's high 3 bits, then the shift.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves
from rowspan.quant.schemes.grids import points
from rowspan.quant.schemes.tables import table_of


def iq1_s(blocks: torch.Tensor) -> Planar:
    words = blocks[:, 34:50].contiguous().view(torch.int16).int()
    high = (_threes(words) & 7).flatten(1)
    shifted = (words >> 15 & 1).repeat_interleave(32, dim=1)
    n = (words >> 12 & 7).to(torch.uint8)
    return _planar("IQ1_S", halves(blocks, 0), blocks[:, 2:34] | high << 8, shifted, n)


def iq1_m(blocks: torch.Tensor) -> Planar:
    high = bit_fields(blocks[:, 32:48], bits=4, width=1).int()
    words = blocks[:, 48:56].contiguous().view(torch.int16).int()
    tops = (words >> 12 & 15) << torch.arange(0, 16, 4, dtype=torch.int32, device=words.device)
    d = tops.sum(dim=1, keepdim=True).to(torch.int16).view(torch.float16).float()
    n = (_threes(words) & 7).flatten(1).to(torch.uint8)
    shifted = (high >> 3).repeat_interleave(8, dim=1)
    return _planar("IQ1_M", d, blocks[:, :32] | (high & 7) << 8, shifted, n)


def _threes(words: torch.Tensor) -> torch.Tensor:
    """Each word shifted by 0, 3, 6 and 9 bits."""
    return words.unsqueeze(2) >> torch.arange(0, 12, 3, dtype=torch.int32, device=words.device)


def _planar(scheme: str, d: torch.Tensor, indices: torch.Tensor, shifted: torch.Tensor, n: torch.Tensor) -> Planar:
    # Both share one grid.
    codes = points("IQ1_S", indices) | shifted.to(torch.uint8) << 3
    return Planar(codes, d, sub_scales=2 * n + 1, table=table_of(scheme, d))
