"""Q8_0: 32 elements `d * q`. Block: d float16 · q int8[32]."""

from __future__ import annotations

import torch

from rowspan.quant.blocks import halves


def q8_0(blocks: torch.Tensor) -> torch.Tensor:
    d, q = halves(blocks, 0), blocks[:, 2:].view(torch.int8)
    return q.float().mul_(d)
