"""Q8_0: 32 elements `d * q`. Block: d float16 · q int8[32]."""

from __future__ import annotations

import torch

from rowspan.quant.unpacking import UnpackedBlocks, halves


def q8_0(blocks: torch.Tensor) -> UnpackedBlocks:
    return UnpackedBlocks(blocks[:, 2:].view(torch.int8), halves(blocks, 0))
