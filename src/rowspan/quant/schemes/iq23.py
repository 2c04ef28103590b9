"""IQ3 and IQ2: 256 elements whose magnitudes are a point of a grid for each 4 (IQ3) or 8 (IQ2), and which have signs of
their own. A code is a magnitude's place in the table, and 8 more with a minus; scales are `d * (2 * n + 1)`, n of 4
bits.

IQ3_S: n for 32 elements. Block: d float16 · index[64] · high[8] · sign[32] · n[4]. `high`: the indices' ninth bits.
IQ3_XXS: n for 32 elements. Block: d float16 · index[64] · word[8], of 32 bits: four times 7 bits of signs, then n.
IQ2_S: n for 16 elements. Block: d float16 · index[32] · sign[32] · high[8] · n[8]. `high`: 2 bits of each index.
IQ2_XS: n for 16 elements. Block: d float16 · word[32], of 16 bits: index 9, signs 7 · n[8].
IQ2_XXS: n for 32 elements. Block: d float16 · 8 times (index[4] · word, as in IQ3_XXS).

Signs lie lowest bit first. Of eight that are stored in 7 bits, the number of minuses is even.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves
from rowspan.quant.schemes.grids import points
from rowspan.quant.schemes.tables import table_of


def iq3_s(blocks: torch.Tensor) -> Planar:
    indices = blocks[:, 2:66].short() | bit_fields(blocks[:, 66:74], bits=1, width=1).short() << 8
    return _planar("IQ3_S", halves(blocks, 0), indices, blocks[:, 74:106], _nibbles(blocks[:, 106:110]))


def iq3_xxs(blocks: torch.Tensor) -> Planar:
    signs, n = _signs_and_scales(blocks[:, 66:98])
    return _planar("IQ3_XXS", halves(blocks, 0), blocks[:, 2:66], signs, n)


def iq2_s(blocks: torch.Tensor) -> Planar:
    indices = blocks[:, 2:34].short() | bit_fields(blocks[:, 66:74], bits=2, width=1).short() << 8
    return _planar("IQ2_S", halves(blocks, 0), indices, blocks[:, 34:66], _nibbles(blocks[:, 74:82]))


def iq2_xs(blocks: torch.Tensor) -> Planar:
    words = blocks[:, 2:66].contiguous().view(torch.int16).int()
    signs = _eighth_sign(words >> 9 & 127)
    return _planar("IQ2_XS", halves(blocks, 0), words & 511, signs, _nibbles(blocks[:, 66:74]))


def iq2_xxs(blocks: torch.Tensor) -> Planar:
    parts = blocks[:, 2:66].reshape(-1, 8, 8)
    signs, n = _signs_and_scales(parts[:, :, 4:].flatten(1))
    return _planar("IQ2_XXS", halves(blocks, 0), parts[:, :, :4].flatten(1), signs, n)


def _planar(scheme: str, d: torch.Tensor, indices: torch.Tensor, signs: torch.Tensor, n: torch.Tensor) -> Planar:
    codes = points(scheme, indices) | bit_fields(signs, bits=1, width=1) << 3
    return Planar(codes, d, sub_scales=2 * n + 1, table=table_of(scheme, d))


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    return bit_fields(packed, bits=4, width=1)


def _signs_and_scales(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Words of 32 bits, (n, bytes), to bytes of signs, four for each, and their scales' n."""
    words = packed.clone(memory_format=torch.contiguous_format).view(torch.int32)  # which begins at a word
    sevens = words.unsqueeze(2) >> torch.arange(0, 28, 7, dtype=torch.int32, device=words.device) & 127
    return _eighth_sign(sevens.flatten(1)), (words >> 28 & 15).to(torch.uint8)


def _eighth_sign(sevens: torch.Tensor) -> torch.Tensor:
    """Seven signs and the eighth, which makes them even, uint8."""
    odd = sevens ^ sevens >> 4
    odd = odd ^ odd >> 2
    odd = odd ^ odd >> 1
    return (sevens | (odd & 1) << 7).to(torch.uint8)
