"""F32, F16, BF16: blocks of one element."""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar


def f32(blocks: torch.Tensor) -> Planar:
    return Planar(blocks.contiguous().view(torch.float32))


def f16(blocks: torch.Tensor) -> Planar:
    return Planar(blocks.contiguous().view(torch.float16))


def bf16(blocks: torch.Tensor) -> Planar:
    return Planar(blocks.contiguous().view(torch.bfloat16))
