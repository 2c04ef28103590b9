"""Joins several matrices with the same input into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rowspan.kernels.ops import Weight
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.linear.layout import PlanarWeight


def join(weights: Sequence[Weight]) -> PlanarWeight | DenseWeight | None:
    """A matrix with all rows, one matrix below the other; None if they are not held alike (Q4_K_M has some v in
    Q6_K).
    """
    first = weights[0]
    if any(weight.columns != first.columns or not weight.rows for weight in weights) or not first.columns:
        return None
    if all(isinstance(weight, DenseWeight) for weight in weights):
        return DenseWeight(torch.cat([weight.matrix for weight in weights if isinstance(weight, DenseWeight)]))
    planar = [weight for weight in weights if isinstance(weight, PlanarWeight)]
    if len(planar) < len(weights) or len({(weight.scheme, weight.row_scales is None) for weight in planar}) > 1:
        return None
    planes = [field.name for field in fields(PlanarWeight) if isinstance(getattr(planar[0], field.name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(weight, name) for weight in planar]) for name in planes}
    return replace(planar[0], **joined)
