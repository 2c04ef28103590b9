"""Norm, rotary embedding and the gated activation in plain torch, on rows that may be columns of a wider tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Angles:
    """cos and sin, float32 (positions, dim / 2)."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) · weight over each stretch of x as long as weight, in float32, rounded once, to this type."""
    heads = x.view(*x.shape[:-1], x.shape[-1] // weight.shape[0], weight.shape[0])  # also of no rows
    return F.rms_norm(heads.float(), weight.shape, weight, eps).to(dtype).reshape(x.shape)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Hidden states, float32, of any types."""
    return x.float() + y.float()


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual) in x's type, and x + residual in float32."""
    total = add(x, residual)
    return rms_norm(total, weight, eps, x.dtype), total


def rope(x: Tensor, table: Angles, head_dim: int, positions: Tensor) -> Tensor:
    """The leading elements of each head of x (T, heads · head_dim), rotated by the angles of its token's position."""
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


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up."""
    return F.silu(gate).mul_(up)
