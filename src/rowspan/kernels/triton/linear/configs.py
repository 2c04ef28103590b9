"""Chooses how the linear kernels are cut into tiles; such numbers are chosen nowhere else. Plain data.

`choose` is used without tuning (kernels/triton/linear/tuning.py). Its numbers come from what the compiler says of
registers and shared memory (tests/oracle/test_triton_compiled.py), not from measurements: no card was at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

from rowspan.kernels.triton.card_family import CardFamily, CardModel
from rowspan.kernels.triton.linear.layout import UNIT


@dataclass(frozen=True)
class Narrow:
    """Tile sizes for kernels/triton/linear/narrow.py."""

    tokens: int  # a power of two, at least as many as there are
    block_rows: int
    units: int  # of columns, one for each thread
    num_warps: int
    num_stages: int = 1
    split: int = 1  # of the columns over programs


@dataclass(frozen=True)
class Wide:
    """Tile sizes for kernels/triton/linear/wide.py. Blocks have at least 16 rows or tokens, and 64 columns."""

    block_tokens: int
    block_rows: int
    block_columns: int
    split: int
    num_warps: int
    num_stages: int
    band: int = 8


@dataclass(frozen=True)
class Unpacked:
    """Piece sizes for kernels/triton/linear/unpacked.py."""

    rows_at_once: int


Config = Narrow | Wide | Unpacked
WAYS = {"narrow": Narrow, "wide": Wide, "unpacked": Unpacked}

MOST_NARROW = 2  # tokens; beyond, the matrix units' kernel has fewer instructions to each weight: 7 of 7, 10, 17
LEAST_UNPACKED = 512  # tokens; here a vendor's GEMM at 90 % of peak has made up for unpacking, against one at 50 %
# Bytes that an H200's memory delivers to each processor while one is on its way (some 0.7 µs at 4.3 TB/s), twice.
UNDER_WAY = 48 << 10
SCRATCH = 64 << 20  # bytes of a matrix unpacked at once: enough rows to fill a card, few enough to stay in a large L2


def choose(card: CardModel, tokens: int, rows: int, columns: int, bits: int, looked_up: bool = False) -> Config:
    """A configuration that is sensible without tuning.

    Args:
        looked_up: codes stand for numbers of a table, which takes registers to find.
    """
    if tokens <= MOST_NARROW:
        return _narrow(card, tokens, rows, columns, bits, looked_up)
    if tokens >= LEAST_UNPACKED:
        return unpacked(columns)
    return _wide(card, tokens, rows, columns, looked_up)


def unpacked(columns: int, scratch: int = SCRATCH) -> Unpacked:
    """The configuration by which any number of tokens can be computed. Pieces are whole tiles of a vendor's GEMM, so
    that the next piece's outputs begin at an aligned place.
    """
    return Unpacked(max(256, scratch // (2 * columns) // 256 * 256))


def candidates(
    card: CardModel, tokens: int, rows: int, columns: int, bits: int, looked_up: bool = False
) -> Iterator[Config]:
    """Yield configurations that are worth timing, the default first; some occur twice."""
    yield choose(card, tokens, rows, columns, bits, looked_up)
    if tokens <= 4 * MOST_NARROW:
        narrow = _narrow(card, tokens, rows, columns, bits, looked_up)
        for block_rows, num_warps in product((1, 2, 4, 8), (1, 2, 4, 8)):
            yield replace(narrow, block_rows=block_rows, num_warps=num_warps, units=num_warps * card.lanes, split=1)
        for split in (2, 4):
            yield replace(narrow, split=split)
    if tokens > 1:
        splits = (1,) if tokens > 256 else (1, 2, 4, 8)
        stages = (2,) if card.family in (CardFamily.RDNA, CardFamily.CDNA) else (3, 4)
        tiles = [tile for tile in TILES[card.family] if tile[1] < 2 * max(16, tokens)]
        for tile, block_columns, split, num_stages in product(tiles, (64, 128), splits, stages):
            block_rows, block_tokens, num_warps = tile
            yield Wide(block_tokens, block_rows, block_columns, split, num_warps, num_stages)
    if tokens >= LEAST_UNPACKED // 4:
        for scratch in (SCRATCH // 4, SCRATCH, 4 * SCRATCH):
            yield unpacked(columns, scratch)


# rows, tokens and warps of a tile of sums, from few tokens to many; of those for as many tokens, the default is last.
# Each thread holds rows · tokens / threads sums.
TILES = {
    # wgmma takes 64 rows a time from four warps; two use the matrix instructions of older cards.
    CardFamily.HOPPER: ((64, 16, 2), (64, 16, 4), (64, 32, 4), (128, 64, 4), (64, 64, 4), (128, 128, 8), (128, 256, 8)),
    CardFamily.AMPERE: ((64, 16, 4), (64, 32, 4), (128, 64, 4), (64, 64, 4), (128, 128, 8)),
    CardFamily.RDNA: ((64, 16, 4), (64, 32, 4), (128, 64, 8), (64, 64, 4)),
    CardFamily.CDNA: ((64, 16, 4), (64, 32, 4), (128, 64, 4), (64, 64, 4), (128, 128, 8)),
}


def _narrow(card: CardModel, tokens: int, rows: int, columns: int, bits: int, looked_up: bool) -> Narrow:
    """The configuration for few tokens. More rows per program share the cost of loading activations; fewer leave
    registers to more threads. If there would be too few programs for the card, there are fewer rows; then a row's
    columns are shared among more warps of its program, and as a last resort among programs, whose sums a second launch
    of some 2 µs adds up.
    """
    held = _power_of_two(tokens)
    few_columns = bits in (4, 8)  # of a unit; a thread holds them all, for all tokens
    block_rows = 4 if held == 1 or few_columns else 2
    if held == 1 and few_columns:
        block_rows = 8
    if card.family is CardFamily.RDNA:  # else the compiler spills registers
        block_rows //= 4 if looked_up else 2
    while block_rows > 1 and rows < 3 * block_rows * card.processors:
        block_rows //= 2
    programs, units = -(-rows // block_rows), -(-columns // UNIT[bits])

    def asked_for(warps: int) -> int:
        """Bytes requested from memory at a time on each processor."""
        return programs * warps * card.lanes * 16 * block_rows // card.processors

    num_warps = 2 if units > card.lanes else 1
    while num_warps < 8 and units > num_warps * card.lanes and asked_for(num_warps) < UNDER_WAY:
        num_warps *= 2
    split = 1
    while split < 8 and units >= 4 * split * num_warps * card.lanes and asked_for(num_warps * split) < UNDER_WAY // 3:
        split *= 2
    return Narrow(held, block_rows, num_warps * card.lanes, num_warps, split=split)


def _wide(card: CardModel, tokens: int, rows: int, columns: int, looked_up: bool) -> Wide:
    """The configuration for many tokens: the tile with as many tokens as there are, and parts of columns until every
    processor has six warps or more; further parts would cost more in sums to be written and read again.
    """
    most = max(16, _power_of_two(tokens))
    if looked_up and card.family is CardFamily.RDNA:  # else the compiler spills registers
        most = min(most, 32)
    fitting = [tile for tile in TILES[card.family] if tile[1] <= most]
    block_rows, block_tokens, num_warps = fitting[-1]
    amd = card.family in (CardFamily.RDNA, CardFamily.CDNA)
    block_columns = 128 if block_tokens <= 32 and not amd else 64
    warps = -(-rows // block_rows) * -(-tokens // block_tokens) * num_warps
    split = 1
    while split < 8 and warps * split < 6 * card.processors and columns // (2 * split) >= 4 * block_columns:
        split *= 2
    return Wide(block_tokens, block_rows, block_columns, split, num_warps, num_stages=2 if amd else 4)


def _power_of_two(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def as_data(config: Config) -> dict[str, str | int]:
    """A configuration for JSON."""
    way = next(way for way, kind in WAYS.items() if isinstance(config, kind))
    return {"way": way, **asdict(config)}


def from_data(data: object) -> Config:
    """A configuration from JSON. Raises ValueError if `as_data` did not make it."""
    if not isinstance(data, dict) or data.get("way") not in WAYS:
        raise ValueError(f"no way of computing: {data!r}")
    numbers = {name: value for name, value in data.items() if name != "way"}
    if not all(type(value) is int and value > 0 for value in numbers.values()):
        raise ValueError(f"not all are counts: {data!r}")
    powers = [
        value
        for name, value in numbers.items()
        if name.startswith("block_") or name in ("tokens", "units", "num_warps")
    ]
    if any(value & (value - 1) for value in powers):
        raise ValueError(f"not all tiles are powers of two: {data!r}")
    try:
        config: Config = WAYS[data["way"]](**numbers)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return config
