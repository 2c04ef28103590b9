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
class Geometry:
    """How many elements share a block of how many bytes. A row is a whole number of blocks; dense types are blocks of
    one element.
    """

    name: str
    block_size: int  # elements
    block_bytes: int

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


@dataclass(frozen=True, slots=True)
class Scheme(Geometry):
    """A scheme of matrices that Rowspan computes with.

    In the runtime layouts, a quantized value is scale · (code - zero) + minimum, or of T4 scale · table[code] · unit. A
    block has one float16 scale (and minimum); where a block is several groups, each has an 8-bit factor of its own to
    multiply them by. Or scales are a byte each: powers of two, 2^(exponent - 128), or for each group an 8-bit float.
    """

    codes: Codes
    group: int = 1  # elements that share a scale (and minimum); 1 of dense types
    zero: int = 0
    has_minima: bool = False
    has_exponents: bool = False  # in place of scales
    has_e4m3: bool = False  # in place of scales: E4M3 without a sign, halved, one for each group
    has_odd_factors: bool = False  # groups' factors are 2 n + 1 with n of 4 bits, which is what native kernels hold
    table: tuple[int, ...] = ()  # of T4: the 16 numbers, of 8 bits, that codes stand for
    unit: float = 1.0  # what a table's numbers count, a power of two

    @property
    def is_dense(self) -> bool:
        return self.group == 1

    @property
    def scaled_columns(self) -> int:
        """Number of columns that share a float16 or a byte."""
        return self.group if self.has_e4m3 else self.block_size

    @property
    def has_sub_scales(self) -> bool:
        return self.group < self.scaled_columns

    @property
    def has_row_scales(self) -> bool:
        """Whether the native kernels multiply a row's products by a float32, for `unit` or a tensor's own scale."""
        return self.unit != 1.0 or self.has_e4m3

    def panel_columns(self, columns: int) -> int:
        """Number of columns in a panel of the native kernels' layout, including those that only pad it."""
        return -(-columns // BFLOAT_COLUMNS) * BFLOAT_COLUMNS if self.codes is Codes.BF16 else columns

    def panel_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix in the native kernels' layout, `rowspan.quant.panels`."""
        lanes = -(-rows // PANEL) * PANEL
        elements = lanes * self.panel_columns(columns)
        codes = elements * self.codes.bits // 8
        if self.is_dense:
            return codes
        each = 1 if self.has_exponents or self.has_e4m3 else 2
        subs = elements // self.group // (2 if self.has_odd_factors else 1) if self.has_sub_scales else 0
        factors = (each * elements // self.scaled_columns + subs) * (2 if self.has_minima else 1)
        return codes + factors + (4 * lanes if self.has_row_scales and columns else 0)


NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of IQ4_NL and IQ4_XS
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _signed(*magnitudes: int) -> tuple[int, ...]:
    """A table of up to 8 numbers, and of the same with the other sign from code 8 on."""
    half = magnitudes + (0,) * (8 - len(magnitudes))
    return half + tuple(-number for number in half)


IQ2 = _signed(8, 25, 43)
IQ3_XXS = _signed(2, 6, 10, 14, 18, 22, 26, 31)
IQ3_S = _signed(1, 3, 5, 7, 9, 11, 13, 15)
IQ1 = (-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7, 0, 0, 0, 0, 0)  # -1, 0 and 1, each shifted up or, from code 8 on, down by ⅛

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
        Scheme("NVFP4", 64, 36, Codes.T4, 16, has_e4m3=True, table=E2M1_DOUBLED),
        Scheme("IQ3_S", 256, 110, Codes.T4, 32, has_odd_factors=True, table=IQ3_S),
        Scheme("IQ3_XXS", 256, 98, Codes.T4, 32, has_odd_factors=True, table=IQ3_XXS, unit=1 / 2),
        Scheme("IQ2_S", 256, 82, Codes.T4, 16, has_odd_factors=True, table=IQ2, unit=1 / 8),
        Scheme("IQ2_XS", 256, 74, Codes.T4, 16, has_odd_factors=True, table=IQ2, unit=1 / 8),
        Scheme("IQ2_XXS", 256, 66, Codes.T4, 32, has_odd_factors=True, table=IQ2, unit=1 / 8),
        Scheme("IQ1_M", 256, 56, Codes.T4, 16, has_odd_factors=True, table=IQ1, unit=1 / 8),
        Scheme("IQ1_S", 256, 50, Codes.T4, 32, has_odd_factors=True, table=IQ1, unit=1 / 8),
        Scheme("TQ2_0", 256, 66, Codes.U4, 32, zero=1, has_odd_factors=True),
        Scheme("TQ1_0", 256, 54, Codes.U4, 32, zero=1, has_odd_factors=True),
    )
}


# Only vectors may be stored as these: norms and biases, which become float32.
VECTOR_SCHEMES: Mapping[str, Geometry] = {
    geometry.name: geometry
    for geometry in (Geometry("I8", 1, 1), Geometry("I16", 1, 2), Geometry("I32", 1, 4), Geometry("F64", 1, 8))
}

# Rowspan cannot compute with these: their names, which a refusal states, and their sizes, for planning.
UNREAD_SCHEMES: Mapping[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        Geometry("Q8_1", 32, 36),
        Geometry("Q8_K", 256, 292),
        Geometry("I64", 1, 8),
        Geometry("Q1_0", 128, 18),
    )
}

GEOMETRIES: Mapping[str, Geometry] = {**SCHEMES, **VECTOR_SCHEMES, **UNREAD_SCHEMES}


def stored_bytes(scheme: str, elements: int) -> int:
    """Bytes of so many elements, in whole blocks, whether Rowspan can compute with the scheme or not."""
    geometry = GEOMETRIES[scheme]
    return elements // geometry.block_size * geometry.block_bytes
