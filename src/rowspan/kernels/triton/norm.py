"""RMS norm (Zhang and Sennrich 2019), alone or fused with the addition before it: one pass over memory each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # elements per program: short stretches (heads, for q and k norms) are taken several at a time


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) · weight over each stretch of x (T, n · len(weight)) as long as weight, in float32, rounded once to
    `dtype`. x may be columns of a wider tensor.
    """
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _launch(x, None, None, out, weight, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual) in x's type, and x + residual in float32."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    added = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    _launch(x, residual, added, out, weight, eps)
    return out, added


def _launch(x: Tensor, residual: Tensor | None, added: Tensor | None, out: Tensor, weight: Tensor, eps: float) -> None:
    width = weight.shape[0]
    per_token = x.shape[1] // width
    n_stretches = x.shape[0] * per_token
    if not n_stretches:
        return
    padded = triton.next_power_of_2(width)
    together = max(1, ELEMENTS // padded)
    _normalize[(triton.cdiv(n_stretches, together),)](
        x,
        residual,
        added,
        out,
        weight,
        n_stretches,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        out.stride(0),
        eps,
        PER_TOKEN=per_token,
        WIDTH=width,
        PADDED=padded,
        TOGETHER=together,
        num_warps=min(16, max(1, together * padded // 512)),  # 16 elements a thread, or 8 on CDNA
    )


@triton.jit(do_not_specialize=["n_stretches"])  # it varies from step to step: no kernel for each kind of number
def _normalize(
    x,
    residual,
    added,
    out,
    weight,
    n_stretches,
    x_stride,
    residual_stride,
    out_stride,  # stride of `added`, too
    eps,
    PER_TOKEN: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    stretch = tl.program_id(0) * TOGETHER + tl.arange(0, TOGETHER)
    i = tl.arange(0, PADDED)
    held = (stretch < n_stretches)[:, None] & (i < WIDTH)[None, :]
    token = (stretch // PER_TOKEN).to(tl.int64)[:, None]
    column = (stretch % PER_TOKEN * WIDTH)[:, None] + i[None, :]
    wide = tl.load(x + token * x_stride + column, mask=held, other=0.0).to(tl.float32)
    if residual is not None:
        wide += tl.load(residual + token * residual_stride + column, mask=held, other=0.0).to(tl.float32)
        tl.store(added + token * out_stride + column, wide, mask=held)
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / WIDTH + eps)
    weights = tl.load(weight + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    result = wide * scale[:, None] * weights[None, :]
    tl.store(out + token * out_stride + column, result.to(out.dtype.element_ty), mask=held)
