"""The residual stream: the hidden states to which every layer adds."""

from __future__ import annotations

from typing import Any, Generic

from rowspan.kernels.ops import Array, Kernels
from rowspan.model.norm import Norm, norm
from rowspan.model.spec import ModelSpec, NormKind


class Residual(Generic[Array]):
    """Hidden states (T, hidden). An addition is delayed until the next operation: if that is a norm, both become one
    op, which cards compute in one launch.
    """

    def __init__(self, kernels: Kernels[Array], x: Array, spec: ModelSpec) -> None:
        self._kernels = kernels
        self._x = x
        self._spec = spec
        self._waiting: Array | None = None

    def add(self, change: Array) -> None:
        self._x, self._waiting = self.value(), change

    def value(self) -> Array:
        if self._waiting is not None:
            self._x, self._waiting = self._kernels.add(self._x, self._waiting), None
        return self._x

    def scale(self, factor: float) -> None:
        if factor != 1.0:
            self._x = self._kernels.scale(self.value(), factor)

    def norm(self, weights: Norm) -> Array:
        """The normed hidden states; the residual stream itself is not normed."""
        if self._waiting is None or self._spec.norm is not NormKind.RMS:
            return norm(self._kernels, self.value(), weights, self._spec)
        normed, self._x = self._kernels.add_rms_norm(self._x, self._waiting, weights.weight, self._spec.norm_eps)
        self._waiting = None
        return normed

    def replace_by_norm(self, weights: Norm) -> None:
        """Norm the residual stream itself."""
        self._x = norm(self._kernels, self.value(), weights, self._spec)

    def select(self, inputs: Any) -> None:
        """Keep only the output rows, (N, hidden)."""
        self._x = self._kernels.gather_output_rows(self.value(), inputs)
