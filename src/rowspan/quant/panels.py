"""Repacking a file's rows of blocks into the order in which the native kernels read them. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rowspan.quant.large_pages import ALIGNMENT
from rowspan.quant.scheme import PANEL, SCHEMES, Codes, Scheme

CODE_DTYPES = {
    Codes.F32: np.float32,
    Codes.F16: np.float16,
    Codes.BF16: np.uint16,
    Codes.U8: np.uint8,
    Codes.U4: np.uint8,
    Codes.U6: np.uint8,
}


@dataclass(frozen=True)
class PackedMatrix:
    """`Matrix` of native/matrix.hpp, which describes the arrays. All are contiguous and aligned to cache lines."""

    kind: Codes
    codes: np.ndarray  # of the kind's type; of BF16 the bits, uint16
    scales: np.ndarray | None  # float16; None of dense kinds
    minima: np.ndarray | None  # float16; None: all zero
    sub_scales: np.ndarray | None  # int8; None: scales are those of the groups
    sub_minima: np.ndarray | None  # int8
    rows: int
    columns: int
    group: int  # columns that share a scale; 1 of dense kinds
    zero: int

    @property
    def is_dense(self) -> bool:
        return self.scales is None

    @property
    def layout(self) -> tuple[object, ...]:
        """Matrices with the same one differ in their values only."""
        sizes = tuple(None if array is None else array.shape for array in self._arrays)
        return (self.kind, *sizes, self.rows, self.columns, self.group, self.zero)

    @property
    def addresses(self) -> tuple[int, ...]:
        """The arguments of the native module's `Matrix`."""
        places = (0 if array is None else array.ctypes.data for array in self._arrays)
        return (self.kind, *places, self.rows, self.columns, self.group, self.zero)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays if array is not None)

    @property
    def _arrays(self) -> tuple[np.ndarray | None, ...]:
        return (self.codes, self.scales, self.minima, self.sub_scales, self.sub_minima)


def pack(
    native: Any, cpu: Any, scheme_name: str, raw: np.ndarray, new: Callable[[tuple[int, ...], DTypeLike], np.ndarray]
) -> PackedMatrix:
    """Repack rows of blocks; values are preserved exactly.

    Args:
        native: the module of compiled kernels.
        cpu: its `Cpu`, whose threads do it.
        raw: (rows, bytes per row) uint8; rows may lie apart, as those of a column cut of a mapped file do.
        new: makes an array, aligned to cache lines, for what the matrix is made of.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    scheme = SCHEMES[scheme_name]
    rows, columns = raw.shape[0], scheme.columns(raw.shape[1])
    panels, quantized = -(-rows // PANEL), not scheme.is_dense

    def factors(present: bool, columns_each: int, dtype: DTypeLike) -> np.ndarray | None:
        return new((panels, columns // columns_each, PANEL), dtype) if present else None

    packed = PackedMatrix(
        kind=scheme.codes,
        codes=new(_codes_shape(scheme, panels, columns), CODE_DTYPES[scheme.codes]),
        scales=factors(quantized, scheme.block_size, np.float16),
        minima=factors(scheme.has_minima, scheme.block_size, np.float16),
        sub_scales=factors(scheme.has_sub_scales, scheme.group, np.int8),
        sub_minima=factors(scheme.has_sub_scales and scheme.has_minima, scheme.group, np.int8),
        rows=rows,
        columns=columns,
        group=scheme.group,
        zero=scheme.zero,
    )
    native.pack(
        scheme.ggml_type,
        raw,
        packed.codes.view(np.uint8),
        _bits(packed.scales),
        _bits(packed.minima),
        packed.sub_scales,
        packed.sub_minima,
        cpu,
    )
    return packed


def _codes_shape(scheme: Scheme, panels: int, columns: int) -> tuple[int, ...]:
    """Dense elements one by one, but bfloat16 in pairs; quantized ones in words of four bytes."""
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
