"""Norms of hidden states."""

from __future__ import annotations

from typing import Any, NamedTuple

from rowspan.kernels.ops import Array, Kernels
from rowspan.model.spec import ModelSpec, NormKind


class Norm(NamedTuple):
    """The weights of a norm, and its bias or None, in the kernels' form."""

    weight: Any
    bias: Any = None


def norm(kernels: Kernels[Array], x: Array, weights: Norm, spec: ModelSpec) -> Array:
    """Hidden states normed as the model has it."""
    if spec.norm is NormKind.RMS:
        return kernels.rms_norm(x, weights.weight, spec.norm_eps)
    return kernels.layer_norm(x, weights.weight, spec.norm_eps, weights.bias)
