"""Tiles of a `PlanarWeight`, unpacked in registers: what all kernels that read one begin with.

Words are of 32 bits, four to a unit of layout.py. Codes are taken out of a word four at a time, one to each byte;
`part` counts these fours. Their columns, in word w's byte b of a unit:

    8 bits       8 (b // 2) + 2 w + b % 2
    4 bits       8 b + 2 w + part
    6, 2 bits    32 (part // 2) + 8 b + 2 w + part % 2
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_words(codes, high, row, first, units, BITS: tl.constexpr, UNITS: tl.constexpr):
    """Words of UNITS units from unit `first` on, three tiles (rows, 4 · UNITS): the plane's; of 6 bits, those of each
    unit's first and second half in the plane of 4, and the plane of 2. Beyond the row's end they are zero.

    row: int64 (rows,), all of them there are. units: of a row.
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
def four_codes(words, PART: tl.constexpr, BITS: tl.constexpr):
    """What `load_words` gave → words of four codes."""
    left, right, pairs = words
    if BITS == 8:
        return left
    elif BITS == 4:
        return (left >> (4 * PART)) & 0x0F0F0F0F
    else:
        pairs = (pairs >> (2 * PART)) & 0x03030303
        if BITS == 2:
            return pairs
        else:
            halves = right if PART // 2 else left
            return ((halves >> (4 * (PART % 2))) & 0x0F0F0F0F) | (pairs << 4)


@triton.jit
def code(four, BYTE: tl.constexpr):
    """One of four codes, as float32."""
    return ((four >> (8 * BYTE)) & 0xFF).to(tl.float32)


@triton.jit
def tile_of_codes(
    codes,
    high,
    row,
    first,
    units,
    BITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Codes of UNITS units, COLUMNS columns in their order: float32 (BLOCK_ROWS, COLUMNS)."""
    words = load_words(codes, high, row, first, units, BITS, UNITS)
    # The indices that columns consist of, from the lowest; each join adds one at the end.
    if BITS == 8:
        tile = _bytes(words, 0, BITS, BLOCK_ROWS, UNITS)  # …, word, odd, eight
        tile = tl.permute(tile, (0, 1, 4, 2, 3))
    elif BITS == 4:
        tile = tl.join(_bytes(words, 0, BITS, BLOCK_ROWS, UNITS), _bytes(words, 1, BITS, BLOCK_ROWS, UNITS))
        tile = tl.permute(tile, (0, 1, 4, 3, 2, 5))  # …, word, eight, sixteen, odd
    else:
        left = tl.join(_bytes(words, 0, BITS, BLOCK_ROWS, UNITS), _bytes(words, 1, BITS, BLOCK_ROWS, UNITS))
        right = tl.join(_bytes(words, 2, BITS, BLOCK_ROWS, UNITS), _bytes(words, 3, BITS, BLOCK_ROWS, UNITS))
        tile = tl.permute(tl.join(left, right), (0, 1, 6, 4, 3, 2, 5))  # …, word, eight, sixteen, odd, thirty-two
    return tl.reshape(tile, (BLOCK_ROWS, COLUMNS))


@triton.jit
def _bytes(words, PART: tl.constexpr, BITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, UNITS: tl.constexpr):
    """(BLOCK_ROWS, UNITS, 4, lower bit of the byte, higher bit)"""
    four = tl.reshape(four_codes(words, PART, BITS), (BLOCK_ROWS, UNITS, 4))
    return tl.join(tl.join(code(four, 0), code(four, 1)), tl.join(code(four, 2), code(four, 3)))


@triton.jit
def load_factors(factors, sub_factors, row, group, groups, GROUP: tl.constexpr):
    """Scales or minima of some groups of each row, float32 (rows, …); zero beyond the row's end.

    sub_factors: None where a group has a float16 of its own. groups: of a row.
    """
    inside = (group < groups)[None, :]
    at = (row * groups)[:, None] + group[None, :]
    if sub_factors is None:
        return tl.load(factors + at, mask=inside, other=0.0).to(tl.float32)
    else:
        each: tl.constexpr = 256 // GROUP
        above = (row * (groups // each))[:, None] + (group // each)[None, :]
        factor = tl.load(factors + above, mask=inside, other=0.0).to(tl.float32)
        return factor * tl.load(sub_factors + at, mask=inside, other=0).to(tl.float32)
