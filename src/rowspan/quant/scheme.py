"""Weight schemes: how many elements share a block of how many bytes. No torch.

Block geometries are those of ggml (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PANEL = 16  # rows that native kernels compute side by side, one in each lane of a vector


@dataclass(frozen=True, slots=True)
class Scheme:
    """Geometry of one weight scheme. A row is a whole number of blocks; dense types are blocks of one element."""

    name: str
    ggml_type: int  # number of the type in GGUF files
    block_size: int  # elements
    block_bytes: int
    group: int = 1  # elements that share a scale (and minimum); 1 of dense types
    has_minima: bool = False  # value = scale · code + minimum, else scale · code
    four_bit: bool = False  # codes fit half a byte: Q4_0's signed ones become 0 … 15 through a minimum

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements, a multiple of the block size."""
        return columns // self.block_size * self.block_bytes

    def panel_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a quantized matrix in the native kernels' layout, `rowspan.quant.panels`."""
        parameters = 4 * (2 if self.has_minima or self.four_bit else 1) * columns // self.group
        return -(-rows // PANEL) * PANEL * (columns // (2 if self.four_bit else 1) + parameters)


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", 0, 1, 4),
        Scheme("F16", 1, 1, 2),
        Scheme("BF16", 30, 1, 2),
        Scheme("Q8_0", 8, 32, 34, 32),
        Scheme("Q4_0", 2, 32, 18, 32, four_bit=True),
        Scheme("Q4_1", 3, 32, 20, 32, has_minima=True, four_bit=True),
        Scheme("Q5_0", 6, 32, 22, 32),
        Scheme("Q5_1", 7, 32, 24, 32, has_minima=True),
        Scheme("Q2_K", 10, 256, 84, 16, has_minima=True, four_bit=True),
        Scheme("Q3_K", 11, 256, 110, 16),
        Scheme("Q4_K", 12, 256, 144, 32, has_minima=True, four_bit=True),
        Scheme("Q5_K", 13, 256, 176, 32, has_minima=True),
        Scheme("Q6_K", 14, 256, 210, 16),
    )
}

SCHEME_OF_GGML_TYPE: Mapping[int, Scheme] = {scheme.ggml_type: scheme for scheme in SCHEMES.values()}

# What other types are called, to name them when they must be refused.
UNSUPPORTED_GGML_TYPES: Mapping[int, str] = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
