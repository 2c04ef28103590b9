"""The order in which the native kernels read a grouped matrix: `GroupedMatrix` of native/kernels.hpp."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rowspan.quant.groups import Groups
from rowspan.quant.scheme import PANEL


@dataclass(frozen=True)
class PackedPanels:
    """A grouped matrix in panels of 16 rows, the last one filled up with zeros. All tensors are contiguous."""

    codes: torch.Tensor  # (panels, columns, 16) int8; of four bits: (panels, columns / 2, 16) uint8, even columns low
    scales: torch.Tensor  # (panels, columns / group, 16) float32
    minima: torch.Tensor | None  # as scales; None: all zero
    rows: int
    columns: int
    group: int
    four_bit: bool

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + (0 if self.minima is None else self.minima.nbytes)


def panels(groups: Groups) -> PackedPanels:
    """Reorder a matrix for the native kernels."""
    n_rows, n_columns = groups.codes.shape
    return PackedPanels(
        codes=_to_panels(_pairs(groups.codes) if groups.four_bit else groups.codes),
        scales=_to_panels(groups.scales),
        minima=None if groups.minima is None else _to_panels(groups.minima),
        rows=n_rows,
        columns=n_columns,
        group=groups.group,
        four_bit=groups.four_bit,
    )


def unpack_panels(packed: PackedPanels) -> Groups:
    """What `panels` was given."""
    codes = _from_panels(packed.codes, packed.rows)
    if packed.four_bit:
        codes = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1).view(torch.int8)
    return Groups(
        codes=codes,
        scales=_from_panels(packed.scales, packed.rows),
        minima=None if packed.minima is None else _from_panels(packed.minima, packed.rows),
        group=packed.group,
        four_bit=packed.four_bit,
    )


def _pairs(codes: torch.Tensor) -> torch.Tensor:
    """Codes of four bits, (rows, columns) int8 → (rows, columns / 2) uint8, even columns low."""
    n_rows, n_columns = codes.shape
    pairs = codes.flatten().view(torch.int16)  # even | odd << 8: one pass over pairs is faster than one over each half
    return (pairs | (pairs >> 4)).to(torch.uint8).view(n_rows, n_columns // 2)


def _to_panels(matrix: torch.Tensor) -> torch.Tensor:
    """(rows, n) → (panels, n, 16)."""
    n_rows, n = matrix.shape
    if n_rows % PANEL:
        matrix = torch.nn.functional.pad(matrix, (0, 0, 0, -n_rows % PANEL))
    return matrix.view(-(-n_rows // PANEL), PANEL, n).transpose(1, 2).contiguous()


def _from_panels(panels: torch.Tensor, n_rows: int) -> torch.Tensor:
    """(panels, n, 16) → (rows, n)."""
    return panels.transpose(1, 2).flatten(0, 1)[:n_rows].contiguous()
