"""Projections: matrices in the kernels' runtime layout with their biases, and their products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.kernels.ops import Array, Kernels, Weight


@dataclass(frozen=True)
class Projection:
    """A matrix in the kernels' runtime layout, and its bias if it has one."""

    weight: Weight
    bias: Any

    def of(self, kernels: Kernels[Array], x: Array) -> Array:
        """x (T, columns) · weight.T + bias, (T, rows)."""
        return kernels.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Projections:
    """Matrices with the same input. joined: all of them as one matrix, if the kernels prefer that; then `parts` is
    empty. widths: number of rows of each matrix.
    """

    parts: tuple[Projection, ...]
    joined: Projection | None
    widths: tuple[int, ...]

    def of(self, kernels: Kernels[Array], x: Array) -> Sequence[Array]:
        """The products of x (T, columns) with each matrix."""
        if self.joined is None:
            return [part.of(kernels, x) for part in self.parts]
        return kernels.split_columns(self.joined.of(kernels, x), self.widths)
