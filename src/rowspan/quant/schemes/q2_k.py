"""Q2_K: 256 elements `d * scale * q - dmin * minimum` of 2 bits, in 16 groups.

Block: (scale: low, minimum: high 4 bits)[16] · q[64] · d float16 · dmin float16. Each 32 bytes of `q` hold 128
elements: the lowest bit pair of all bytes first.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q2_k(blocks: torch.Tensor) -> Planar:
    d, dmin = halves(blocks, 80), halves(blocks, 82)
    scale, minimum = bit_fields(blocks[:, :16], bits=4, width=16).chunk(2, dim=1)
    q = bit_fields(blocks[:, 16:80], bits=2, width=32)
    return Planar(q.view(torch.int8), d, -dmin, scale, minimum)
