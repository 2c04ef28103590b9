"""NVFP4: 64 elements `e4m3 / 2 * TABLE[q]`, in 4 groups. Block: e4m3[4] · q[32]: each 8 bytes of `q` hold a group, low
halves first. The table is MXFP4's, of E2M1 doubled.

Scales are E4M3 without a sign, whose 0x7F is no number and, as in ggml, stands for 0. A tensor has one more scale, in a
tensor of its own.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields
from rowspan.quant.schemes.tables import table_of


def nvfp4(blocks: torch.Tensor) -> Planar:
    bits = torch.where(blocks[:, :4] == 0x7F, 0, blocks[:, :4] & 0x7F)
    q = bit_fields(blocks[:, 4:], bits=4, width=8)
    return Planar(q, halved_e4m3(bits), table=table_of("NVFP4", blocks))


def halved_e4m3(bits: torch.Tensor) -> torch.Tensor:
    """Half of the E4M3 that bytes below 128 are, float32: as float16, whose exponents count from 15, not 7, they are by
    2^8 smaller.
    """
    return (bits.short() << 7).view(torch.float16).float() * 2.0**7


def e4m3_bits(halved: torch.Tensor) -> torch.Tensor:
    """Undo `halved_e4m3`: uint8."""
    return ((halved * 2.0**-7).half().view(torch.int16) >> 7).to(torch.uint8)
