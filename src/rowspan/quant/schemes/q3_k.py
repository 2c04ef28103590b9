"""Q3_K: 256 elements `d * (scale - 32) * (q - 4)` of 3 bits, in 16 groups with scales of 6 bits.

Block: h[32] · q[64] · scales[12] · d float16. The low 2 bits of an element lie as in Q2_K, its high bit in `h`: the
lowest bit of all bytes first. Scales: the low 4 bits in 8 bytes, low halves of all bytes first; the high 2 bits in 4
bytes, lowest pair of all bytes first.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q3_k(blocks: torch.Tensor) -> Planar:
    d = halves(blocks, 108)
    scale = bit_fields(blocks[:, 96:104], bits=4, width=8) | (bit_fields(blocks[:, 104:108], bits=2, width=4) << 4)
    q = bit_fields(blocks[:, 32:96], bits=2, width=32) | (bit_fields(blocks[:, :32], bits=1, width=32) << 2)
    return Planar(q.view(torch.int8).sub_(4), d, sub_scales=scale.view(torch.int8).sub_(32))
