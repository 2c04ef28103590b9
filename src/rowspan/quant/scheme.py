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
    """What the native kernels hold an element as: `Codes` of native/matrix.hpp, in its order."""

    F32 = 0
    F16 = 1
    BF16 = 2
    U8 = 3
    U4 = 4
    U6 = 5

    @property
    def bits(self) -> int:
        return {Codes.F32: 32, Codes.F16: 16, Codes.BF16: 16, Codes.U8: 8, Codes.U4: 4, Codes.U6: 6}[self]


@dataclass(frozen=True, slots=True)
class Scheme:
    """Geometry of one weight scheme. A row is a whole number of blocks; dense types are blocks of one element.

    In the native kernels' layout, a quantized value is scale · (code - zero) + minimum. A block has one float16 scale
    (and minimum); where a block is several groups, each has an 8-bit factor of its own to multiply them by.
    """

    name: str
    ggml_type: int  # number of the type in GGUF files
    block_size: int  # elements
    block_bytes: int
    codes: Codes
    group: int = 1  # elements that share a scale (and minimum); 1 of dense types
    zero: int = 0
    has_minima: bool = False

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
        """Elements of a row.

        Raises:
            ValueError: it is not a whole number of blocks.
        """
        if row_bytes % self.block_bytes:
            raise ValueError(f"rows of {row_bytes} bytes are not whole {self.name} blocks of {self.block_bytes}")
        return row_bytes // self.block_bytes * self.block_size

    def panel_columns(self, columns: int) -> int:
        """Columns of a panel in the native kernels' layout, those included that only fill it up."""
        return -(-columns // BFLOAT_COLUMNS) * BFLOAT_COLUMNS if self.codes is Codes.BF16 else columns

    def panel_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix in the native kernels' layout, `rowspan.quant.panels`."""
        elements = -(-rows // PANEL) * PANEL * self.panel_columns(columns)
        codes = elements * self.codes.bits // 8
        if self.is_dense:
            return codes
        factors = 2 * elements // self.block_size + (elements // self.group if self.has_sub_scales else 0)
        return codes + factors * (2 if self.has_minima else 1)


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", 0, 1, 4, Codes.F32),
        Scheme("F16", 1, 1, 2, Codes.F16),
        Scheme("BF16", 30, 1, 2, Codes.BF16),
        Scheme("Q8_0", 8, 32, 34, Codes.U8, 32, zero=128),
        Scheme("Q4_0", 2, 32, 18, Codes.U4, 32, zero=8),
        Scheme("Q4_1", 3, 32, 20, Codes.U4, 32, has_minima=True),
        Scheme("Q5_0", 6, 32, 22, Codes.U6, 32, zero=16),
        Scheme("Q5_1", 7, 32, 24, Codes.U6, 32, has_minima=True),
        Scheme("Q2_K", 10, 256, 84, Codes.U4, 16, has_minima=True),
        Scheme("Q3_K", 11, 256, 110, Codes.U4, 16, zero=4),
        Scheme("Q4_K", 12, 256, 144, Codes.U4, 32, has_minima=True),
        Scheme("Q5_K", 13, 256, 176, Codes.U6, 32, has_minima=True),
        Scheme("Q6_K", 14, 256, 210, Codes.U6, 16, zero=32),
    )
}

SCHEME_OF_GGML_TYPE: Mapping[int, Scheme] = {scheme.ggml_type: scheme for scheme in SCHEMES.values()}


@dataclass(frozen=True, slots=True)
class UnreadScheme:
    """A type that Rowspan cannot compute with: its name, to refuse it by, and its size, to plan with."""

    name: str
    block_size: int
    block_bytes: int


UNREAD_SCHEMES: Mapping[int, UnreadScheme] = {
    9: UnreadScheme("Q8_1", 32, 36),
    15: UnreadScheme("Q8_K", 256, 292),
    16: UnreadScheme("IQ2_XXS", 256, 66),
    17: UnreadScheme("IQ2_XS", 256, 74),
    18: UnreadScheme("IQ3_XXS", 256, 98),
    19: UnreadScheme("IQ1_S", 256, 50),
    20: UnreadScheme("IQ4_NL", 32, 18),
    21: UnreadScheme("IQ3_S", 256, 110),
    22: UnreadScheme("IQ2_S", 256, 82),
    23: UnreadScheme("IQ4_XS", 256, 136),
    24: UnreadScheme("I8", 1, 1),
    25: UnreadScheme("I16", 1, 2),
    26: UnreadScheme("I32", 1, 4),
    27: UnreadScheme("I64", 1, 8),
    28: UnreadScheme("F64", 1, 8),
    29: UnreadScheme("IQ1_M", 256, 56),
    34: UnreadScheme("TQ1_0", 256, 54),
    35: UnreadScheme("TQ2_0", 256, 66),
    39: UnreadScheme("MXFP4", 32, 17),
    40: UnreadScheme("NVFP4", 64, 36),
    41: UnreadScheme("Q1_0", 128, 18),
}

# What other types are called, to name them when they must be refused.
UNSUPPORTED_GGML_TYPES: Mapping[int, str] = {number: scheme.name for number, scheme in UNREAD_SCHEMES.items()}

GEOMETRIES: Mapping[str, Scheme | UnreadScheme] = {
    **SCHEMES,
    **{scheme.name: scheme for scheme in UNREAD_SCHEMES.values()},
}


def stored_bytes(scheme: str, elements: int) -> int:
    """Bytes of so many elements, whole blocks of them, in a type that Rowspan reads or not."""
    geometry = GEOMETRIES[scheme]
    return elements // geometry.block_size * geometry.block_bytes
