"""Q6_K: 256 elements `d * scale * (q - 32)` of 6 bits, in 16 groups.

Block: l[128] · h[64] · scale int8[16] · d float16. Each 64 bytes of `l` hold the low 4 bits of 128 elements, low halves
first; each 32 bytes of `h` their high 2 bits, lowest pair of all bytes first.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q6_k(blocks: torch.Tensor) -> Planar:
    d, scale = halves(blocks, 208), blocks[:, 192:208].view(torch.int8)
    q = bit_fields(blocks[:, :128], bits=4, width=64) | (bit_fields(blocks[:, 128:192], bits=2, width=32) << 4)
    return Planar(q.view(torch.int8).sub_(32), d, sub_scales=scale)
