"""The activation of an MLP, alone or with the multiplication after it: one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.torch.small_ops import SWIGLU_LIMIT, SWIGLU_SLOPE
from rowspan.model.spec import Activation

BLOCK = 1024  # elements of a program
LIMIT, SLOPE = tl.constexpr(SWIGLU_LIMIT), tl.constexpr(SWIGLU_SLOPE)
# gelu's form with tanh is x · sigmoid(x · (GELU_1 + GELU_3 · x²)), GELU_1 being 2 · √(2 / π): without its cancellation
GELU_1 = tl.constexpr(1.5957691216057308)
ROOT_HALF = tl.constexpr(0.7071067811865476)
GELU_3 = tl.constexpr(1.5957691216057308 * 0.044715)


def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) · up, (T, F), in float32, rounded once.

    Either may be columns of a wider tensor: of one that holds both, `x[:, :F], x[:, F:]`.
    """
    return _launch(gate, up, activation)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """activation(x), (T, F), in float32, rounded once. x may be columns of a wider tensor.

    Raises:
        ValueError: the activation is defined of a gate and what it multiplies only.
    """
    if activation is Activation.CLAMPED_SWIGLU:
        raise ValueError(f"{activation} needs a gate")
    return _launch(x, None, activation)


def _launch(gate: Tensor, up: Tensor | None, activation: Activation) -> Tensor:
    n_tokens, width = gate.shape
    out = torch.empty((n_tokens, width), dtype=gate.dtype, device=gate.device)
    if out.numel():
        _activate[(n_tokens, triton.cdiv(width, BLOCK))](
            out,
            gate,
            up,
            width,
            gate.stride(0),
            0 if up is None else up.stride(0),
            ACTIVATION=activation.value,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return out


@triton.jit
def _erfc(z):
    """The complementary error function of what is not negative, within 1.2e-7 of itself: Chebyshev's fit of Press et
    al., "Numerical Recipes" (1992), chapter 6.2.
    """
    t = 1.0 / (1.0 + 0.5 * z)
    y = t * 0.17087277 - 0.82215223
    y = y * t + 1.48851587
    y = y * t - 1.13520398
    y = y * t + 0.27886807
    y = y * t - 0.18628806
    y = y * t + 0.09678418
    y = y * t + 0.37409196
    y = y * t + 1.00002368
    return t * tl.exp(y * t - 1.26551223 - z * z)


@triton.jit
def _activate(out, gate, up, width, gate_stride, up_stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = column < width
    x = tl.load(gate + token * gate_stride + column, mask=held, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        result = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        result = x / (1.0 + tl.exp(-x * (x * x * GELU_3 + GELU_1)))
    elif ACTIVATION == "gelu_erf":
        half_erfc = 0.5 * _erfc(tl.abs(x) * ROOT_HALF)
        result = x * tl.where(x < 0.0, half_erfc, 1.0 - half_erfc)
    elif ACTIVATION == "relu2":
        positive = tl.maximum(x, 0.0)
        result = positive * positive
    else:
        tl.static_assert(ACTIVATION == "clamped_swiglu")
        x = tl.minimum(x, LIMIT)
        result = x / (1.0 + tl.exp(-x * SLOPE))
    if up is not None:
        y = tl.load(up + token * up_stride + column, mask=held, other=0.0).to(tl.float32)
        if ACTIVATION == "clamped_swiglu":
            y = tl.minimum(tl.maximum(y, -LIMIT), LIMIT) + 1.0
        result *= y
    tl.store(out + token * width + column, result.to(out.dtype.element_ty), mask=held)
