"""Chooses the kernel that multiplies tokens with weights in a card's memory, by the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.ops import Weight
from rowspan.kernels.torch import linear as dense
from rowspan.kernels.triton.linear import narrow, unpacked, wide
from rowspan.kernels.triton.linear.configs import Config, Narrow, Wide
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.tuned import config_for


def linear(
    x: Tensor,
    weight: Weight,
    bias: Tensor | None = None,
    config: Config | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """x @ weight.T + bias, (tokens, columns) → (tokens, rows), for x in float16 or bfloat16.

    It may be captured in a graph: nothing depends on values, and nothing is waited for.

    Args:
        config: tile sizes; None: those that tuning has found for this card, or the default.
        dtype: type of the result; None: x's. Without bias it may be float32.
    """
    dtype = dtype or x.dtype
    if not isinstance(weight, PlanarWeight):
        return dense.linear(x, weight, bias) if dtype == x.dtype else dense.logits(x, weight)
    tokens = x.shape[0]
    if tokens == 0 or weight.rows == 0:
        return x.new_empty(tokens, weight.rows, dtype=dtype)
    if weight.columns == 0:  # a rank that has no heads
        y = x.new_zeros(tokens, weight.rows, dtype=dtype)
        return y if bias is None else y + bias
    x = x.contiguous()
    if config is None:
        config = config_for(weight.scheme, tokens, weight.rows, weight.columns, x.dtype, x.device)
    if isinstance(config, Narrow):
        return narrow.linear(x, weight, bias, config, dtype)
    if isinstance(config, Wide):
        return wide.linear(x, weight, bias, config, dtype)
    return unpacked.linear(x, weight, bias, config, dtype)
