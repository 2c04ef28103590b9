"""Q4_0 and Q4_1: 32 elements of 4 bits. Byte i of `q` holds element i (low bits) and element i + 16 (high bits).

Q4_0: `d * (q - 8)`. Block: d float16 · q[16].
Q4_1: `d * q + m`. Block: d float16 · m float16 · q[16].
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q4_0(blocks: torch.Tensor) -> Planar:
    d, q = halves(blocks, 0), bit_fields(blocks[:, 2:], bits=4, width=16)
    return Planar(q.view(torch.int8).sub_(8), d)


def q4_1(blocks: torch.Tensor) -> Planar:
    d, m, q = halves(blocks, 0), halves(blocks, 2), bit_fields(blocks[:, 4:], bits=4, width=16)
    return Planar(q.view(torch.int8), d, m)
