"""Dense linear layers in plain torch.

A row's result must not depend on how many other rows share the step, or else a request's text would change with its
neighbours. Measured with torch 2.13 on AVX-512: MKL's sgemm (what F.linear uses) gives other last bits below 13 rows
and at some larger counts; oneDNN's prepacked kernel gives the same bits for every count from 2 on, and is 1.6 to 3.5
times as fast at 4 to 32 rows because it does not repack the weight on every call. So float32 on CPUs uses that one, and
a lone row is doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rowspan.kernels.ops import Weight

ELEMENTS_AT_ONCE = 1 << 24  # elements of a piece; up to 16 bytes are held for each


@dataclass(frozen=True)
class DenseWeight:
    """A (rows, columns) matrix as a plain tensor."""

    matrix: Tensor

    @property
    def rows(self) -> int:
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:
        return self.matrix.shape[1]

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes


@dataclass(frozen=True)
class OnednnWeight:
    """A float32 matrix in oneDNN's blocked layout; opaque to everything but oneDNN."""

    packed: Tensor
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        return self.rows * self.columns * 4  # blocks are padded by less than a percent


def pack(weight: Tensor) -> DenseWeight | OnednnWeight:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    if on_cpu and weight.numel() and torch._C._has_mkldnn:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return OnednnWeight(packed, weight.shape[0], weight.shape[1])
    return DenseWeight(weight.contiguous())


def logits(x: Tensor, weight: Weight) -> Tensor:
    """Like `linear`, but with the float32 sums as they are, not rounded to x's type."""
    if x.dtype == torch.float32 or not isinstance(weight, DenseWeight):
        return linear(x, weight)
    return float_product(x, weight.matrix)


def float_product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix.T for 16-bit floats, with the result in float32."""
    if x.is_cuda and torch.version.hip is None:
        return torch.mm(x, matrix.T, out_dtype=torch.float32)
    # Neither processors nor, as its sources say, ROCm have such a product.
    return product_by_pieces(x.float(), matrix.shape, lambda rows: matrix[rows].float())


def product_by_pieces(x: Tensor, shape: Sequence[int], piece: Callable[[slice], Tensor]) -> Tensor:
    """x @ matrix.T for a matrix (rows, columns), some rows of which `piece(rows)` makes in x's type."""
    n_rows, columns = shape
    at_once = max(1, ELEMENTS_AT_ONCE // max(1, columns))
    pieces = [slice(first, first + at_once) for first in range(0, max(1, n_rows), at_once)]
    return torch.cat([F.linear(x, piece(rows)) for rows in pieces], dim=1)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    if isinstance(weight, DenseWeight):
        return F.linear(x, weight.matrix, bias)
    if not isinstance(weight, OnednnWeight):
        raise TypeError(f"{type(weight).__name__} is another kernels' layout")
    rows = x.shape[0]
    if rows == 1:
        x = x.expand(2, -1)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.packed, bias, "none", [], "")
    return y[:rows]
