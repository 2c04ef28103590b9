"""Matrices taken apart into codes and the numbers that turn codes into values; and functions that schemes share to do
so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Planar(NamedTuple):
    """The form that every weight scheme is converted to, row by row: value = scale · (code - zero) + minimum.

    Columns share a scale (and zero, and minimum) in groups of any size, as many as there are scales in a row. Or the
    scales of groups are products: of a scale for several groups and a small integer of each. These, and scale · code,
    are exact in float32, since none of GGUF's schemes needs more than 24 bits for them (11 of a float16, and at most 7
    + 5 of Q6_K's scale and code, or 5 + 7 of IQ4_XS's); so a fused multiply-add gives the same value.
    """

    codes: torch.Tensor  # (rows, columns): int8, with a table uint8; or floating-point numbers of any type
    scales: torch.Tensor | None = None  # (rows, n) float32; None: all 1
    minima: torch.Tensor | None = None  # (rows, n) float32; None: all zero
    sub_scales: torch.Tensor | None = None  # (rows, groups) integers of 8 bits; None: groups have scales of their own
    sub_minima: torch.Tensor | None = None  # the same
    zeros: torch.Tensor | None = None  # (rows, groups) integers; None: all zero
    table: torch.Tensor | None = None  # (codes,): the numbers that codes stand for; None: themselves
    permutation: torch.Tensor | None = None  # (columns,) int64: which of the matrix's columns each is; None: in order

    def in_rows(self, rows: int) -> Planar:
        """Join blocks that were taken apart each as a row of its own into `rows` rows of several blocks."""

        def put(part: torch.Tensor | None) -> torch.Tensor | None:
            return part if part is None else part.reshape(rows, -1)

        return self._replace(
            codes=self.codes.reshape(rows, -1),
            scales=put(self.scales),
            minima=put(self.minima),
            sub_scales=put(self.sub_scales),
            sub_minima=put(self.sub_minima),
            zeros=put(self.zeros),
        )


def values(planar: Planar) -> torch.Tensor:
    """The matrix's elements, (rows, columns) float32; a new tensor unless codes are float32."""
    numbers = planar.codes.float() if planar.table is None else planar.table.float()[planar.codes.int()]
    if not numbers.numel():
        return numbers
    if planar.zeros is not None:
        numbers = (_grouped(numbers, planar.zeros) - planar.zeros.float().unsqueeze(2)).flatten(1)
    scales = _of_groups(planar.scales, planar.sub_scales)
    if scales is not None:
        numbers = (_grouped(numbers, scales) * scales.unsqueeze(2)).flatten(1)
    minima = _of_groups(planar.minima, planar.sub_minima)
    if minima is not None:
        numbers = (_grouped(numbers, minima) + minima.unsqueeze(2)).flatten(1)
    if planar.permutation is not None:
        numbers = torch.empty_like(numbers).index_copy_(1, planar.permutation, numbers)
    return numbers


def _of_groups(factors: torch.Tensor | None, sub: torch.Tensor | None) -> torch.Tensor | None:
    """Scales or minima of each group, (rows, groups) float32."""
    if factors is None or sub is None:
        return factors
    return (_grouped(sub.float(), factors) * factors.unsqueeze(2)).flatten(1)


def _grouped(numbers: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """A view of the numbers by shared factor: (rows, n, numbers that share one of n factors)."""
    return numbers.view(*factors.shape, -1)


def halves(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at byte `start` of every block, as [n, 1] float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def bit_fields(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """All fields of `bits` bits, taking `width` bytes at a time: the lowest field of each of them, then the next ones.

    [n, bytes] uint8 → [n, bytes * 8 // bits] uint8.
    """
    mask = (1 << bits) - 1
    # Contiguous, one pass per shift, then interleaved: faster than passes whose inner loops are only `width` long.
    flat = packed.contiguous().view(-1, width)
    return torch.stack([(flat >> shift) & mask for shift in range(0, 8, bits)], dim=1).view(packed.shape[0], -1)
