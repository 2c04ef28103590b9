"""The residual stream: the hidden states to which every layer adds."""

from __future__ import annotations

from typing import Any, Generic

from rowspan.kernels.ops import Array, Kernels
from rowspan.model.spec import ModelSpec, NormKind


def norm(kernels: Kernels[Array], x: Array, weight: Any, spec: ModelSpec) -> Array:
    """Hidden states normed as the model has it."""
    op = kernels.rms_norm if spec.norm is NormKind.RMS else kernels.layer_norm
    return op(x, weight, spec.norm_eps)


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

    def norm(self, weight: Any) -> Array:
        """The normed hidden states; the residual stream itself is not normed."""
        if self._waiting is None or self._spec.norm is not NormKind.RMS:
            return norm(self._kernels, self.value(), weight, self._spec)
        normed, self._x = self._kernels.add_rms_norm(self._x, self._waiting, weight, self._spec.norm_eps)
        self._waiting = None
        return normed

    def select(self, inputs: Any) -> None:
        """Keep only the output rows, (N, hidden)."""
        self._x = self._kernels.gather_output_rows(self.value(), inputs)
