"""The residual stream: the hidden states to which every layer adds."""

from __future__ import annotations

from typing import Any, Generic

from rowspan.kernels.ops import Array, Kernels


class Residual(Generic[Array]):
    """Hidden states (T, hidden). An addition is delayed until the next operation: if that is a norm, both become one
    op, which cards compute in one launch.
    """

    def __init__(self, kernels: Kernels[Array], x: Array, eps: float) -> None:
        self._kernels = kernels
        self._x = x
        self._eps = eps
        self._waiting: Array | None = None

    def add(self, change: Array) -> None:
        self._x, self._waiting = self.value(), change

    def value(self) -> Array:
        if self._waiting is not None:
            self._x, self._waiting = self._kernels.add(self._x, self._waiting), None
        return self._x

    def norm(self, weight: Any) -> Array:
        """The normed hidden states; the residual stream itself is not normed."""
        if self._waiting is None:
            return self._kernels.rms_norm(self._x, weight, self._eps)
        normed, self._x = self._kernels.add_rms_norm(self._x, self._waiting, weight, self._eps)
        self._waiting = None
        return normed

    def select(self, inputs: Any) -> None:
        """Keep only the output rows, (N, hidden)."""
        self._x = self._kernels.gather_output_rows(self.value(), inputs)
