"""Unpacks tiles of a `PlanarWeight` in registers, with which all kernels that read such a weight begin.

Words are of 32 bits, four to a unit of layout.py. Codes are named by the byte b that they are in, and where that has
several, by their part of it, from the lowest bits. Their columns, in a unit's word w:

    8 bits       8 (b // 2) + 2 w + b % 2
    4 bits       8 b + 2 w + part
    6, 2 bits    32 (part // 2) + 8 b + 2 w + part % 2
"""

from __future__ import annotations

import triton
import triton.language as tl

ONE = 127 << 23  # the bits of a float32 of 1


@triton.jit
def load_words(codes, high, row, first, units, BITS: tl.constexpr, UNITS: tl.constexpr):
    """Load words of UNITS units from unit `first` on, as three tiles (rows, 4 · UNITS): those of the only plane; or for
    6 bits, those of each unit's first and second half in the plane of 4 bits, and those in the plane of 2 bits. Words
    beyond the row's end are zero.

    row: int64 (rows,), which all exist. units: number of units in a row.
    """
    word = tl.arange(0, 4 * UNITS)
    given = (first + word // 4 < units)[None, :]
    at = (row * units * 4)[:, None] + (first * 4 + word)[None, :]
    if BITS == 6:
        halves = (row * units * 8)[:, None] + (first * 8 + word // 4 * 8 + word % 4)[None, :]
        left = tl.load(codes + halves, mask=given, other=0)
        right = tl.load(codes + halves + 4, mask=given, other=0)
        return left, right, tl.load(high + at, mask=given, other=0)
    else:
        only = tl.load(codes + at, mask=given, other=0)
        return only, only, only


@triton.jit
def code(
    words, one, PART: tl.constexpr, BYTE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, TABLE: tl.constexpr
):
    """The codes of a part in a byte, from the words of `load_words`, less ZERO, as float32; or the numbers of TABLE
    that they stand for.

    Cards convert integers at half the rate of a multiplication or less. So codes are not converted but set into the
    mantissa of a power of two, there where 1 is the lowest bit that they use: with ZERO it is subtracted, exactly.

    one: ONE, whose value the compiler must not know, or else it takes two instructions, not one, to cut a code out and
    set it.
    """
    shift: tl.constexpr = _shift(PART, BYTE, BITS)
    lowest: tl.constexpr = _lowest_bit(PART, BYTE, BITS) - shift
    power: tl.constexpr = 1 << (23 - lowest)
    exponent: tl.constexpr = (23 - lowest) << 23
    mask: tl.constexpr = ((1 << BITS) - 1) << lowest
    word, _, _ = words
    if TABLE is not None:
        return _looked_up(word >> _lowest_bit(PART, BYTE, BITS), one, TABLE)
    if BITS == 6:
        word = _four_codes(words, PART)
    return (((word >> shift) & mask) | (one + exponent)).to(tl.float32, bitcast=True) - (power + ZERO)


@triton.jit
def _looked_up(word, one, TABLE: tl.constexpr):
    """The numbers of a table (layout.py's `table_bits`), float32, for codes in the lowest 4 bits.

    The table is in four constants, of which the upper two bits choose one, and the lower two a byte in it: loads from
    memory, even the nearest, would take as long as the weights themselves.
    """
    third = (word << 29) >> 31  # all bits are that one
    fourth = (word << 28) >> 31
    low = _word_of(TABLE, 0) ^ (third & (_word_of(TABLE, 0) ^ _word_of(TABLE, 1)))
    high = _word_of(TABLE, 2) ^ (third & (_word_of(TABLE, 2) ^ _word_of(TABLE, 3)))
    four = low ^ (fourth & (low ^ high))
    byte = (four >> ((word & 3) * 8)) & 255
    power: tl.constexpr = 23 - _fraction_of(TABLE)
    exponent: tl.constexpr = power << 23
    zero: tl.constexpr = (1 << power) + 128 * 2.0 ** (power - 23)
    return (byte | (one + exponent)).to(tl.float32, bitcast=True) - zero


@triton.constexpr_function
def _word_of(table: int, place: int) -> int:
    """A 32-bit word of the table, as a signed number."""
    word = table >> 32 * place & 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


@triton.constexpr_function
def _fraction_of(table: int) -> int:
    """How many bits of the table's numbers are a fraction's."""
    return table >> 128


@triton.constexpr_function
def _lowest_bit(part: int, byte: int, bits: int) -> int:
    """The lowest bit of a code in its word; for 6 bits, in words of `_four_codes`."""
    return 8 * byte + {8: 0, 6: 0, 4: 4 * part, 2: 2 * part}[bits]


@triton.constexpr_function
def _shift(part: int, byte: int, bits: int) -> int:
    """A float32 has 23 bits of mantissa: codes beyond are shifted, all alike, so that one shift does for a word."""
    return 16 if _lowest_bit(part, byte, bits) + bits > 23 else 0


@triton.jit
def _four_codes(words, PART: tl.constexpr):
    """For codes of 6 bits: words of four codes, one in each byte."""
    left, right, pairs = words
    halves = right if PART // 2 else left
    return ((halves >> (4 * (PART % 2))) & 0x0F0F0F0F) | (((pairs >> (2 * PART)) & 0x03030303) << 4)


@triton.jit
def tile_of_codes(
    codes,
    high,
    row,
    first,
    units,
    one,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    TABLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Codes of UNITS units, COLUMNS columns in their order, less ZERO, or the numbers that they stand for: float32
    (BLOCK_ROWS, COLUMNS).
    """
    left, right, pairs = load_words(codes, high, row, first, units, BITS, UNITS)
    # Reshaped first: so the compiler finds the layout of words in which codes are unpacked where they are multiplied.
    left = tl.reshape(left, (BLOCK_ROWS, UNITS, 4))
    right = tl.reshape(right, (BLOCK_ROWS, UNITS, 4))
    words = left, right, tl.reshape(pairs, (BLOCK_ROWS, UNITS, 4))
    # The indices that columns consist of, from the lowest; each join adds one at the end.
    if BITS == 8:
        tile = _bytes(words, one, 0, BITS, ZERO, TABLE)  # …, word, odd, eight
        tile = tl.permute(tile, (0, 1, 4, 2, 3))
    elif BITS == 4:
        odd = _bytes(words, one, 1, BITS, ZERO, TABLE)
        tile = tl.join(_bytes(words, one, 0, BITS, ZERO, TABLE), odd)
        tile = tl.permute(tile, (0, 1, 4, 3, 2, 5))  # …, word, eight, sixteen, odd
    else:
        odd = _bytes(words, one, 1, BITS, ZERO, TABLE)
        left = tl.join(_bytes(words, one, 0, BITS, ZERO, TABLE), odd)
        odd = _bytes(words, one, 3, BITS, ZERO, TABLE)
        right = tl.join(_bytes(words, one, 2, BITS, ZERO, TABLE), odd)
        tile = tl.permute(tl.join(left, right), (0, 1, 6, 4, 3, 2, 5))  # …, word, eight, sixteen, odd, thirty-two
    return tl.reshape(tile, (BLOCK_ROWS, COLUMNS))


@triton.jit
def _bytes(words, one, PART: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, TABLE: tl.constexpr):
    """(BLOCK_ROWS, UNITS, 4, lower bit of the byte, higher bit)"""
    even = tl.join(code(words, one, PART, 0, BITS, ZERO, TABLE), code(words, one, PART, 1, BITS, ZERO, TABLE))
    odd = tl.join(code(words, one, PART, 2, BITS, ZERO, TABLE), code(words, one, PART, 3, BITS, ZERO, TABLE))
    return tl.join(even, odd)


@triton.jit
def load_factors(factors, sub_factors, row, group, groups, GROUP: tl.constexpr):
    """Load scales or minima of some groups of each row, float32 (rows, …); zero beyond the row's end.

    factors: float16; or uint8, exponents of powers of two; or int8, E4M3 without a sign, which are halved.
    sub_factors: None if each group has a factor of its own.
    groups: number of groups in a row.
    """
    inside = (group < groups)[None, :]
    at = (row * groups)[:, None] + group[None, :]
    if factors.dtype.element_ty == tl.uint8:
        return _powers(tl.load(factors + at, mask=inside, other=0).to(tl.int32))
    elif factors.dtype.element_ty == tl.int8:
        # A float16's exponent counts from 15, not 7.
        bits = tl.load(factors + at, mask=inside, other=0).to(tl.int16) << 7
        return bits.to(tl.float16, bitcast=True).to(tl.float32) * 128
    elif sub_factors is None:
        return tl.load(factors + at, mask=inside, other=0.0).to(tl.float32)
    else:
        each: tl.constexpr = 256 // GROUP
        above = (row * (groups // each))[:, None] + (group // each)[None, :]
        factor = tl.load(factors + above, mask=inside, other=0.0).to(tl.float32)
        return factor * tl.load(sub_factors + at, mask=inside, other=0).to(tl.float32)


@triton.jit
def _powers(exponents):
    """2^(exponent - 128), float32: the two smallest are numbers without a leading 1."""
    bits = tl.where(exponents < 2, (exponents + 1) << 21, (exponents - 1) << 23)
    return bits.to(tl.float32, bitcast=True)
