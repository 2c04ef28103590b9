"""Chooses attention's tile sizes for each kind of card. They are chosen nowhere else.

They follow from what the compiler says of registers and shared memory (tests/oracle/test_triton_attention_compiles.py
checks them), not from measurements: no card was at hand.
"""

from __future__ import annotations

from typing import NamedTuple

from rowspan.kernels.triton.card_family import CardFamily

WIDEST = 512  # elements of a head


class Tiles(NamedTuple):
    rows: int  # of queries; decode's are as many as share a KV head
    keys: int
    warps: int
    # Of Triton's pipeline. Where copies are asynchronous (NVIDIA), 3 or 4 fetch one tile of keys ahead, and 5 two:
    # every second stage is the block table's, which tells where the keys are.
    stages: int
    value_parts: int = 1  # of values' columns, each a program's that computes all scores anew: for want of registers


def decode_tiles(family: CardFamily, head_size: int, converted: bool = False) -> Tiles:
    """Tiles for decoding: enough bytes under way to hide memory's latency, and room for several programs on a
    multiprocessor.

    Args:
        head_size: elements of a key or a value, whichever has more.
        converted: the cache holds integers, which need registers in both types for a while.
    """
    wide = head_size > 128
    if head_size > 256:
        return Tiles(16, 16, warps=8 if family == CardFamily.RDNA else 4, stages=stages_of(family))
    if family == CardFamily.RDNA:  # every lane holds matrix operands twice: registers are short
        if wide or converted:
            return Tiles(16, 16, warps=8 if wide else 4, stages=1)
        return Tiles(16, 32, warps=4, stages=2)
    return Tiles(16, 32 if wide else 64, warps=4, stages=stages_of(family))


def stages_of(family: CardFamily) -> int:
    """Stages of decode's pipeline. RDNA's wide tiles leave no registers for more than one."""
    return {CardFamily.HOPPER: 5, CardFamily.AMPERE: 3, CardFamily.CDNA: 2, CardFamily.RDNA: 1}[family]


def prefill_tiles(family: CardFamily, head_size: int, group: int, converted: bool = False) -> Tiles:
    """Tiles for prefill: as many rows as registers can sum up.

    Args:
        head_size: elements of a key or a value, whichever has more.
        converted: the cache holds integers, which need registers in both types for a while.
    """
    wide = head_size > 128
    if head_size > 256:
        tiles = {
            CardFamily.HOPPER: Tiles(64, 32, warps=8, stages=3, value_parts=2),
            CardFamily.AMPERE: Tiles(32, 16, warps=8, stages=2),
            CardFamily.RDNA: Tiles(32, 16, warps=8, stages=1, value_parts=2),
            CardFamily.CDNA: Tiles(32, 32, warps=4, stages=1),
        }[family]
    elif family == CardFamily.HOPPER:  # its matrix instructions take 64 rows for each 4 warps
        tiles = Tiles(128, 32, warps=8, stages=3) if wide else Tiles(128, 64, warps=8, stages=5)
    elif family == CardFamily.AMPERE:  # 99 KiB of shared memory, as consumer cards have
        tiles = Tiles(64, 32, warps=8, stages=2) if wide else Tiles(128, 64, warps=8, stages=3)
    elif family == CardFamily.RDNA:
        tiles = Tiles(64, 16, warps=8 if wide or converted else 4, stages=1, value_parts=2 if converted else 1)
    else:
        tiles = Tiles(64, 32, warps=4, stages=1) if wide else Tiles(128, 64, warps=4, stages=1)
    return tiles._replace(rows=max(tiles.rows, 1 << (group - 1).bit_length()))  # a token's heads stay together
