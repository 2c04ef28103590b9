"""How weights lie in a card's memory: codes, and the numbers that make values of them, each in a plane of its own.

    value = scale · (code - zero) + minimum            one scale and minimum for each group of 16 or 32 columns
    value = scale · table[code]                        of codes of 4 bits that stand for numbers of a table

Everything is one row after another, as in the file, and codes lie in units of 16 bytes, since that is what a thread
loads best at once. A warp of the narrow kernel then reads 512 consecutive bytes of a row, a wavefront of CDNA 1024:
whole lines of memory on either maker's cards. The wide kernel reads 64 to 128 consecutive bytes from each of its rows,
as kernels of dense matrices do, and finds the next ones in cache. Tiles stored one after another would spare neither
kernel a line, but tie the layout to one shape of tiles.

A unit's word w = 0 … 3, of 32 bits, has columns 2w and 2w + 1 out of each eight:

    8 bits   16 columns: byte 2m + e is column 8m + 2w + e
    4 bits   32 columns: byte m has column 8m + 2w in its low half, 8m + 2w + 1 in the high one
    2 bits   64 columns: byte m has columns 8m + 2w, 8m + 2w + 1, 32 + 8m + 2w, 32 + 8m + 2w + 1, from the lowest bits
    6 bits   64 columns: the low four bits in a plane of 4 bits, the high two in one of 2 bits

because that is how NVIDIA's matrix units have a thread hold the left operand: a word is just one thread's share of a
row of 16, 32 or 64 columns: codes could be unpacked where they are multiplied. Triton 3.7 does not see it, and takes
unpacked ones through shared memory once more. It did for Q8_0 while codes were converted by an instruction of its own,
but then waited for each product before the next, and spent a fourth more on integers.

A scale (minimum) is a float16, or as the file has it, the product of a float16 for 256 columns and an integer of 8 bits
for the group, or a power of two, or an E4M3; exact in float32. Bits per element, against the file's: Q8_0, Q4_0, Q4_1,
Q6_K, IQ4_NL, MXFP4 and NVFP4 the same, Q4_K 4.625 (4.5), IQ4_XS 4.3125 (4.25), Q5_K 6.625 (5.5), Q3_K 4.5625 (3.4375),
Q2_K 3.125 (2.625), Q5_0 6.5 (5.5), Q5_1 7 (6); IQ3_S, IQ3_XXS, IQ2_XXS and IQ1_S 4.3125, IQ2_S, IQ2_XS and IQ1_M
4.5625; TQ2_0 and TQ1_0 2.3125.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rowspan.quant.scheme import SCHEMES

# Bits of a code, by scheme. Bits are spent where unpacking a third plane would cost more than it saves.
BITS: Mapping[str, int] = {
    "Q8_0": 8,
    "Q4_0": 4,
    "Q4_1": 4,
    "Q5_0": 6,
    "Q5_1": 6,
    "Q2_K": 2,
    "Q3_K": 4,
    "Q4_K": 4,
    "Q5_K": 6,
    "Q6_K": 6,
    "IQ4_NL": 4,
    "IQ4_XS": 4,
    "MXFP4": 4,
    "NVFP4": 4,
    "IQ3_S": 4,
    "IQ3_XXS": 4,
    "IQ2_S": 4,
    "IQ2_XS": 4,
    "IQ2_XXS": 4,
    "IQ1_M": 4,
    "IQ1_S": 4,
    "TQ2_0": 2,
    "TQ1_0": 2,
}
UNIT: Mapping[int, int] = {
    8: 16,
    4: 32,
    6: 64,
    2: 64,
}  # columns of 16 bytes of codes, of the plane with the fewest bits


@dataclass(frozen=True)
class PlanarWeight:
    """A quantized (rows, columns) matrix. Rows are padded to whole units of columns, with scales of zero."""

    codes: Tensor  # int32 (rows, words): the plane of 8, 4 or 2 bits
    high: Tensor | None  # int32 (rows, words): of 6 bits, the plane of 2
    # float16 (rows, groups), or with sub_scales (rows, columns / 256); uint8: exponents, 2^(n - 128); int8: E4M3
    scales: Tensor
    minima: Tensor | None  # like scales; None: all zero
    sub_scales: Tensor | None  # int8 (rows, groups)
    sub_minima: Tensor | None  # int8 (rows, groups)
    row_scales: Tensor | None  # float32 (rows,): factors of rows' products; None: all 1
    scheme: str
    columns: int

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes if plane is not None)

    @property
    def planes(self) -> tuple[Tensor | None, ...]:
        """The first arguments of kernels, in their order."""
        return (self.codes, self.high, self.scales, self.minima, self.sub_scales, self.sub_minima, self.row_scales)

    @property
    def bits(self) -> int:
        return BITS[self.scheme]

    @property
    def unit(self) -> int:
        """Number of columns whose codes take 16 bytes, in the plane with the fewest bits."""
        return UNIT[self.bits]

    @property
    def group(self) -> int:
        """Number of columns that share a scale."""
        return SCHEMES[self.scheme].group

    @property
    def zero(self) -> int:
        return SCHEMES[self.scheme].zero

    @property
    def table(self) -> int | None:
        """The table in the form that kernels take: see `table_bits`."""
        return table_bits(SCHEMES[self.scheme].table, SCHEMES[self.scheme].unit)

    @property
    def units(self) -> int:
        """Number of units in a row; the last one may not be full."""
        return units(self.columns, self.bits)


def table_bits(table: Sequence[int], unit: float = 1.0) -> int | None:
    """Pack 16 numbers of 8 bits, each + 128, into one of 128 bits, the first lowest, and above them how many of their
    bits are a fraction's, so that they count `unit`; None if there are none.
    """
    fraction = int(1 / unit).bit_length() - 1
    return int.from_bytes(bytes([*(number + 128 for number in table), fraction]), "little") if table else None


def units(columns: int, bits: int) -> int:
    return -(-columns // UNIT[bits])
