"""Q5_0 and Q5_1: 32 elements of 5 bits. The low 4 bits lie as in Q4_0; bit i of `h` is the high bit of element i.

Q5_0: `d * (q - 16)`. Block: d float16 · h[4] · q[16].
Q5_1: `d * q + m`. Block: d float16 · m float16 · h[4] · q[16].
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q5_0(blocks: torch.Tensor) -> Planar:
    d, q = halves(blocks, 0), _codes(blocks[:, 2:])
    return Planar(q.view(torch.int8).sub_(16), d)


def q5_1(blocks: torch.Tensor) -> Planar:
    d, m, q = halves(blocks, 0), halves(blocks, 2), _codes(blocks[:, 4:])
    return Planar(q.view(torch.int8), d, m)


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """h[4] · q[16] → [n, 32] uint8."""
    high, low = bit_fields(packed[:, :4], bits=1, width=1), bit_fields(packed[:, 4:], bits=4, width=16)
    return low | (high << 4)
