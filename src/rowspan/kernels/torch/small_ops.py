"""Norm, rotary embedding and activations in plain torch, on rows that may be columns of a wider tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rowspan.model.spec import Activation

SWIGLU_LIMIT, SWIGLU_SLOPE = 7.0, 1.702  # constants of `Activation.CLAMPED_SWIGLU`


@dataclass(frozen=True)
class Angles:
    """Cosines and sines of rotation angles, float32 (positions, dim / 2)."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) · weight over each stretch of x as long as weight, in float32, rounded once to `dtype`."""
    heads = x.view(*x.shape[:-1], x.shape[-1] // weight.shape[0], weight.shape[0])  # works for no rows, too
    return F.rms_norm(heads.float(), weight.shape, weight, eps).to(dtype).reshape(x.shape)


def layer_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """(x - mean) / √(variance + eps) · weight + bias of each row, in float32, rounded once to `dtype`."""
    return F.layer_norm(x.float(), weight.shape, weight, bias, eps).to(dtype)


def add_by_position(x: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """x (T, width) + table[positions], whose last row stands for those behind it, too; rounded once."""
    return (x.float() + table[positions.long().clamp(max=len(table) - 1)]).to(x.dtype)


def scale_by_position(x: Tensor, factors: Tensor, positions: Tensor) -> Tensor:
    """x (T, width) · factors[positions], rounded once."""
    return (x.float() * factors[positions.long(), None]).to(x.dtype)


def add(x: Tensor, y: Tensor) -> Tensor:
    """The sum in float32 of hidden states of any types."""
    return x.float() + y.float()


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual) in x's type, and x + residual in float32."""
    total = add(x, residual)
    return rms_norm(total, weight, eps, x.dtype), total


def rope(x: Tensor, table: Angles, head_dim: int, positions: Tensor) -> Tensor:
    """x (T, heads · head_dim) with the leading elements of each head rotated by the angles of its token's position."""
    half = table.cos.shape[1]
    cos, sin = table.cos[positions][:, None], table.sin[positions][:, None]
    heads = x.view(x.shape[0], -1, head_dim)
    turned, rest = heads[..., : 2 * half].float(), heads[..., 2 * half :]
    if table.interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return torch.cat((turned.to(x.dtype), rest), dim=-1).view(x.shape)


def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) · up in float32, rounded once."""
    wide, factor = gate.float(), up.float()
    if activation is Activation.CLAMPED_SWIGLU:
        wide, factor = wide.clamp(max=SWIGLU_LIMIT), factor.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT) + 1.0
        return (wide * torch.sigmoid(SWIGLU_SLOPE * wide)).mul_(factor).to(gate.dtype)
    return activate(wide, activation).mul_(factor).to(gate.dtype)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """activation(x) in float32, rounded once.

    Raises:
        ValueError: the activation is only defined for a gate with its factor up.
    """
    wide = x.float()
    match activation:
        case Activation.SILU:
            return F.silu(wide).to(x.dtype)
        case Activation.GELU:
            return F.gelu(wide, approximate="tanh").to(x.dtype)
        case Activation.GELU_ERF:
            return (wide * 0.5 * torch.erfc(wide * -(0.5**0.5))).to(x.dtype)  # exact far below zero, too
        case Activation.RELU2:
            return F.relu(wide).square().to(x.dtype)
        case Activation.CLAMPED_SWIGLU:
            raise ValueError(f"{activation} needs a gate")


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap · tanh(x / cap)."""
    return torch.tanh(x / cap).mul_(cap)


def gate_rows(x: Tensor, gate: Tensor) -> Tensor:
    """x (T, width) · sigmoid(gate (T, 1)) in float32, rounded once."""
    return (x.float() * torch.sigmoid(gate.float())).to(x.dtype)


def split_heads(x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Each head of x (T, heads · sum of sizes) taken apart: (T, heads · size) for each size."""
    heads = x.view(len(x), x.shape[1] // sum(sizes), sum(sizes))
    return [
        part.reshape(len(x), -1) if x.numel() else x.new_empty(len(x), 0)
        for part in torch.split(heads, list(sizes), dim=-1)
    ]


def join_heads(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """The heads of a, each followed by that of b."""
    if not heads or not len(a):
        return a.new_empty(len(a), a.shape[1] + b.shape[1])
    return torch.cat([a.view(len(a), heads, -1), b.view(len(b), heads, -1)], dim=-1).view(len(a), -1)
