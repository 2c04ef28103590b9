"""Q8_0: 32 elements `d * q`. Block: d float16 · q int8[32]."""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, halves


def q8_0(blocks: torch.Tensor) -> Planar:
    return Planar(blocks[:, 2:].view(torch.int8), halves(blocks, 0))
