"""Q4_K and Q5_K: 256 elements `d * scale * q - dmin * minimum`, in 8 groups with scales and minima of 6 bits.

Q4_K block: d float16 · dmin float16 · scales[12] · q[128]. Each 32 bytes of `q` hold 64 elements: low halves first.
Q5_K block: d float16 · dmin float16 · scales[12] · h[32] · q[128]. Low 4 bits as in Q4_K; the high bits lie in `h`, the
lowest bit of all bytes first.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def q4_k(blocks: torch.Tensor) -> Planar:
    return _scaled(blocks, bit_fields(blocks[:, 16:144], bits=4, width=32))


def q5_k(blocks: torch.Tensor) -> Planar:
    high = bit_fields(blocks[:, 16:48], bits=1, width=32)
    return _scaled(blocks, bit_fields(blocks[:, 48:176], bits=4, width=32) | (high << 4))


def _scaled(blocks: torch.Tensor, q: torch.Tensor) -> Planar:
    d, dmin = halves(blocks, 0), halves(blocks, 2)
    scale, minimum = _scales_and_minima(blocks[:, 4:16])
    return Planar(q.view(torch.int8), d, -dmin, scale, minimum)


def _scales_and_minima(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, 12] → 8 scales and 8 minima of each block, uint8.

    Bytes 0…3 hold scales 0…3 in their low 6 bits, bytes 4…7 the minima 0…3. Of scale and minimum 4 + i, byte 8 + i
    holds the low 4 bits (scale in its low half), the top 2 bits of bytes i and 4 + i the high ones.
    """
    a, b, c = packed.chunk(3, dim=1)
    scales = torch.cat([a & 63, (c & 15) | (a >> 6 << 4)], dim=1)
    minima = torch.cat([b & 63, (c >> 4) | (b >> 6 << 4)], dim=1)
    return scales, minima
