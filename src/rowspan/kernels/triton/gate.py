"""The gated activation of an MLP."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a program


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, (T, F). Either may be columns of a wider tensor: of one that holds both, `x[:, :F], x[:, F:]`.

    In float32, rounded once."""
    n_tokens, width = gate.shape
    out = torch.empty((n_tokens, width), dtype=gate.dtype, device=gate.device)
    if out.numel():
        grid = (n_tokens, triton.cdiv(width, BLOCK))
        _gated_silu[grid](out, gate, up, width, gate.stride(0), up.stride(0), BLOCK=BLOCK, num_warps=4)
    return out


@triton.jit
def _gated_silu(out, gate, up, width, gate_stride, up_stride, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = column < width
    x = tl.load(gate + token * gate_stride + column, mask=held, other=0.0).to(tl.float32)
    y = tl.load(up + token * up_stride + column, mask=held, other=0.0).to(tl.float32)
    result = x / (1.0 + tl.exp(-x)) * y
    tl.store(out + token * width + column, result.to(out.dtype.element_ty), mask=held)
