"""Weight schemes: how many elements share a block of how many bytes. No torch.

Block geometries are those of ggml (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

PANEL = 16  # rows that native kernels compute side by side, one in each lane of a vector
BFLOAT_COLUMNS = 32  # columns of bfloat16 that they take at once: a panel has whole ones of so many


class Codes(IntEnum):
    """The types as which the native kernels hold an element: `Codes` of native/matrix.hpp, in its order."""

    F32 = 0
    F16 = 1
    BF16 = 2
    U8 = 3
    U4 = 4
    U6 = 5
    T4 = 6

    @property
    def bits(self) -> int:
        return {Codes.F32: 32, Codes.F16: 16, Codes.BF16: 16, Codes.U8: 8, Codes.U4: 4, Codes.U6: 6, Codes.T4: 4}[self]


@dataclass(frozen=True, slots=True)
class Scheme:
    """Geometry of one weight scheme. A row is a whole number of blocks; dense types are blocks of one element.

    In the runtime layouts, a quantized value is scale · (code - zero) + minimum, or of T4 scale · table[code]. A block
    has one float16 scale (and minimum); where a block is several groups, each has an 8-bit factor of its own to
    multiply them by. Or scales are powers of two, and a byte each: 2^(exponent - 128).
    """

    name: str
    block_size: int  # elements
    block_bytes: int
    codes: Codes
    group: int = 1  # elements that share a scale (and minimum); 1 of dense types
    zero: int = 0
    has_minima: bool = False
    has_exponents: bool = False  # in place of scales
    table: tuple[int, ...] = ()  # of T4: the 16 numbers, of 8 bits, that codes stand for

    @property
    def is_dense(self) -> bool:
        return self.group == 1

    @property
    def has_sub_scales(self) -> bool:
        return self.group < self.block_size

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements, a multiple of the block size."""
        return columns // self.block_size * self.block_bytes

    def columns(self, row_bytes: int) -> int:
        """Number of elements in a row of so many bytes.

        Raises:
            ValueError: the row is not a whole number of blocks.
        """
        if row_bytes % self.block_bytes:
            raise ValueError(f"rows of {row_bytes} bytes are not whole {self.name} blocks of {self.block_bytes}")
        return row_bytes // self.block_bytes * self.block_size

    def panel_columns(self, columns: int) -> int:
        """Number of columns in a panel of the native kernels' layout, including those that only pad it."""
        return -(-columns // BFLOAT_COLUMNS) * BFLOAT_COLUMNS if self.codes is Codes.BF16 else columns

    def panel_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix in the native kernels' layout, `rowspan.quant.panels`."""
        elements = -(-rows // PANEL) * PANEL * self.panel_columns(columns)
        codes = elements * self.codes.bits // 8
        if self.is_dense:
            return codes
        each = 1 if self.has_exponents else 2
        factors = each * elements // self.block_size + (elements // self.group if self.has_sub_scales else 0)
        return codes + factors * (2 if self.has_minima else 1)


NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of IQ4_NL and IQ4_XS
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", 1, 4, Codes.F32),
        Scheme("F16", 1, 2, Codes.F16),
        Scheme("BF16", 1, 2, Codes.BF16),
        Scheme("Q8_0", 32, 34, Codes.U8, 32, zero=128),
        Scheme("Q4_0", 32, 18, Codes.U4, 32, zero=8),
        Scheme("Q4_1", 32, 20, Codes.U4, 32, has_minima=True),
        Scheme("Q5_0", 32, 22, Codes.U6, 32, zero=16),
        Scheme("Q5_1", 32, 24, Codes.U6, 32, has_minima=True),
        Scheme("Q2_K", 256, 84, Codes.U4, 16, has_minima=True),
        Scheme("Q3_K", 256, 110, Codes.U4, 16, zero=4),
        Scheme("Q4_K", 256, 144, Codes.U4, 32, has_minima=True),
        Scheme("Q5_K", 256, 176, Codes.U6, 32, has_minima=True),
        Scheme("Q6_K", 256, 210, Codes.U6, 16, zero=32),
        Scheme("IQ4_NL", 32, 18, Codes.T4, 32, table=NON_LINEAR),
        Scheme("IQ4_XS", 256, 136, Codes.T4, 32, table=NON_LINEAR),
        Scheme("MXFP4", 32, 17, Codes.T4, 32, has_exponents=True, table=E2M1_DOUBLED),
    )
}


@dataclass(frozen=True, slots=True)
class UnreadScheme:
    """A scheme that Rowspan cannot compute with: its name, which a refusal states, and its size, for planning."""

    name: str
    block_size: int
    block_bytes: int


UNREAD_SCHEMES: Mapping[str, UnreadScheme] = {
    scheme.name: scheme
    for scheme in (
        UnreadScheme("Q8_1", 32, 36),
        UnreadScheme("Q8_K", 256, 292),
        UnreadScheme("IQ2_XXS", 256, 66),
        UnreadScheme("IQ2_XS", 256, 74),
        UnreadScheme("IQ3_XXS", 256, 98),
        UnreadScheme("IQ1_S", 256, 50),
        UnreadScheme("IQ3_S", 256, 110),
        UnreadScheme("IQ2_S", 256, 82),
        UnreadScheme("I8", 1, 1),
        UnreadScheme("I16", 1, 2),
        UnreadScheme("I32", 1, 4),
        UnreadScheme("I64", 1, 8),
        UnreadScheme("F64", 1, 8),
        UnreadScheme("IQ1_M", 256, 56),
        UnreadScheme("TQ1_0", 256, 54),
        UnreadScheme("TQ2_0", 256, 66),
        UnreadScheme("NVFP4", 64, 36),
        UnreadScheme("Q1_0", 128, 18),
    )
}

GEOMETRIES: Mapping[str, Scheme | UnreadScheme] = {**SCHEMES, **UNREAD_SCHEMES}


def stored_bytes(scheme: str, elements: int) -> int:
    """Bytes of so many elements, in whole blocks, whether Rowspan can compute with the scheme or not."""
    geometry = GEOMETRIES[scheme]
    return elements // geometry.block_size * geometry.block_bytes
