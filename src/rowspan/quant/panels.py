"""Repacks stored matrices into the order in which the native kernels read them. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rowspan.quant.large_pages import ALIGNMENT
from rowspan.quant.scheme import PANEL, SCHEMES, Codes, Scheme
from rowspan.quant.stored import StoredMatrix

CODE_DTYPES = {
    Codes.F32: np.float32,
    Codes.F16: np.float16,
    Codes.BF16: np.uint16,
    Codes.U8: np.uint8,
    Codes.U4: np.uint8,
    Codes.U6: np.uint8,
    Codes.T4: np.uint8,
}
TABLE_ZERO = 128  # what is added to a table's numbers: they are then bytes, as codes of U8 are


@dataclass(frozen=True)
class PackedMatrix:
    """`Matrix` of native/matrix.hpp, which describes the arrays. All are contiguous and aligned to cache lines."""

    kind: Codes
    codes: np.ndarray  # of the kind's type; of BF16 the bits, uint16
    scales: np.ndarray | None  # float16; None of dense kinds, and where there are exponents
    exponents: np.ndarray | None  # uint8: scales are 2^(exponent - 128)
    minima: np.ndarray | None  # float16; None: all zero
    sub_scales: np.ndarray | None  # int8; None: scales are those of the groups
    sub_minima: np.ndarray | None  # int8
    table: np.ndarray | None  # uint8 (16,), of T4: the numbers that codes stand for, counted from `zero`
    e4m3: np.ndarray | None  # uint8, in place of scales: half of an E4M3 without a sign for each group
    odd_factors: np.ndarray | None  # uint8, in place of sub_scales: n of two groups' 2 n + 1
    row_scales: np.ndarray | None  # float32, factors of rows' products; None: all 1
    rows: int
    columns: int
    group: int  # columns that share a scale; 1 of dense kinds
    zero: int

    @property
    def is_dense(self) -> bool:
        return self.group == 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays but the table, which all matrices of a scheme share."""
        return sum(array.nbytes for array in self._planes if array is not None)

    @property
    def _planes(self) -> tuple[np.ndarray | None, ...]:
        factors = (self.scales, self.exponents, self.minima, self.sub_scales, self.sub_minima)
        return (self.codes, *factors, self.e4m3, self.odd_factors, self.row_scales)


def pack(
    native: Any, cpu: Any, stored: StoredMatrix, new: Callable[[tuple[int, ...], DTypeLike], np.ndarray]
) -> PackedMatrix:
    """Repack a stored matrix; values are preserved exactly.

    Args:
        native: the module of compiled kernels.
        cpu: its `Cpu`, whose threads do the work.
        stored: a matrix of blocks; rows may lie apart, as those of a column cut of a mapped file do.
        new: allocates an array, aligned to cache lines.

    Raises:
        UnsupportedModelError: the scheme is not one of blocks.
    """
    blocks, scheme, rows, columns = stored.blocks, SCHEMES[stored.scheme], stored.rows, stored.columns
    panels, quantized = -(-rows // PANEL), not scheme.is_dense

    def factors(present: bool, columns_each: int, dtype: DTypeLike) -> np.ndarray | None:
        return new((panels, columns // columns_each, PANEL), dtype) if present else None

    packed = PackedMatrix(
        kind=scheme.codes,
        codes=new(_codes_shape(scheme, panels, columns), CODE_DTYPES[scheme.codes]),
        scales=factors(quantized and not (scheme.has_exponents or scheme.has_e4m3), scheme.block_size, np.float16),
        exponents=factors(scheme.has_exponents, scheme.block_size, np.uint8),
        minima=factors(scheme.has_minima, scheme.block_size, np.float16),
        sub_scales=factors(scheme.has_sub_scales and not scheme.has_odd_factors, scheme.group, np.int8),
        sub_minima=factors(scheme.has_sub_scales and scheme.has_minima, scheme.group, np.int8),
        e4m3=factors(scheme.has_e4m3, scheme.group, np.uint8),
        odd_factors=factors(scheme.has_odd_factors, 2 * scheme.group, np.uint8),
        row_scales=_row_scales(scheme, stored, panels if columns else 0, new),
        table=(np.array(scheme.table) + TABLE_ZERO).astype(np.uint8) if scheme.table else None,
        rows=rows,
        columns=columns,
        group=scheme.group,
        zero=TABLE_ZERO if scheme.table else scheme.zero,
    )
    native.pack(
        scheme.name,
        blocks,
        packed.codes.view(np.uint8),
        _bits(packed.scales),
        packed.exponents,
        _bits(packed.minima),
        packed.sub_scales,
        packed.sub_minima,
        packed.e4m3,
        packed.odd_factors,
        cpu,
    )
    return packed


def _row_scales(
    scheme: Scheme, stored: StoredMatrix, panels: int, new: Callable[[tuple[int, ...], DTypeLike], np.ndarray]
) -> np.ndarray | None:
    """What rows' products are multiplied by: what a table's numbers count, and the file's own factors."""
    if stored.row_scales is None and not scheme.has_row_scales:
        return None
    scales = new((panels, PANEL), np.float32)
    scales[:] = 0
    if panels:
        scales.reshape(-1)[: stored.rows] = scheme.unit * (1 if stored.row_scales is None else stored.row_scales)
    return scales


def _codes_shape(scheme: Scheme, panels: int, columns: int) -> tuple[int, ...]:
    """Shape of the codes: dense elements one by one, but bfloat16 in pairs; quantized ones in words of four bytes."""
    if scheme.codes is Codes.BF16:
        return panels, scheme.panel_columns(columns) // 2, PANEL, 2
    return (panels, columns, PANEL) if scheme.is_dense else (panels, columns * scheme.codes.bits // 32, PANEL, 4)


def _bits(halves: np.ndarray | None) -> np.ndarray | None:
    return None if halves is None else halves.view(np.uint16)


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """A new array, uninitialized, that begins at a cache line: numpy itself aligns to 16 bytes only."""
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
