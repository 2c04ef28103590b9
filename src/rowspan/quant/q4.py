"""Q4_0 and Q4_1: 32 elements of 4 bits. Byte i of `q` holds element i (low bits) and element i + 16 (high bits).

Q4_0: `d * (q - 8)`. Block: d float16 · q[16].
Q4_1: `d * q + m`. Block: d float16 · m float16 · q[16].
"""

from __future__ import annotations

import torch

from rowspan.quant.unpacking import UnpackedBlocks, bit_fields, halves


def q4_0(blocks: torch.Tensor) -> UnpackedBlocks:
    d, q = halves(blocks, 0), bit_fields(blocks[:, 2:], bits=4, width=16)
    return UnpackedBlocks(q.view(torch.int8).sub_(8), d)


def q4_1(blocks: torch.Tensor) -> UnpackedBlocks:
    d, m, q = halves(blocks, 0), halves(blocks, 2), bit_fields(blocks[:, 4:], bits=4, width=16)
    return UnpackedBlocks(q.view(torch.int8), d, m)
