"""Sizes of attention's tiles for each kind of card: the one place that decides them.

Chosen by what compiled code needs (tests/oracle/test_triton_compiles.py holds them to it): no registers spilled, and as
much shared memory as the card has, or less. They were not tuned by measurement yet.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class Tiles(NamedTuple):
    rows: int  # of queries; of decode: as many as share a KV head
    keys: int
    warps: int
    stages: int  # tiles of keys under way at a time, the one computed with included


@cache
def target_of(device: torch.device) -> str:
    """sm_80, gfx1100, … as compilers call it; "interpreter" of a CPU."""
    if device.type == "cpu":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def decode_tiles(device: torch.device, head_dim: int) -> Tiles:
    return decode_tiles_of(target_of(device), head_dim)


def prefill_tiles(device: torch.device, head_dim: int, group: int) -> Tiles:
    return prefill_tiles_of(target_of(device), head_dim, group)


def decode_tiles_of(target: str, head_dim: int) -> Tiles:
    """Enough bytes under way to hide memory's latency, and room for several programs on a multiprocessor."""
    wide = head_dim > 128
    if target.startswith(("gfx10", "gfx11", "gfx12")):  # RDNA: every lane holds operands twice
        return Tiles(16, 16 if wide else 32, warps=4, stages=1 if wide else 2)
    if target.startswith("gfx"):
        return Tiles(16, 32 if wide else 64, warps=4, stages=2)
    return Tiles(16, 32 if wide else 64, warps=4, stages=3)


def prefill_tiles_of(target: str, head_dim: int, group: int) -> Tiles:
    """As many rows as registers can sum up."""
    wide = head_dim > 128
    if target == "interpreter":
        tiles = Tiles(32, 32, warps=4, stages=1)
    elif target == "sm_90":  # wgmma takes 64 rows for each 4 warps
        tiles = Tiles(128, 32 if wide else 64, warps=8, stages=3)
    elif target.startswith("sm_"):  # 99 KiB of shared memory, as consumer cards have
        tiles = Tiles(64, 32, warps=8, stages=2) if wide else Tiles(128, 64, warps=8, stages=2)
    elif target.startswith(("gfx10", "gfx11", "gfx12")):
        tiles = Tiles(64, 16, warps=8, stages=1) if wide else Tiles(64, 16, warps=4, stages=1)
    else:
        tiles = Tiles(64, 32, warps=4, stages=1) if wide else Tiles(128, 64, warps=4, stages=1)
    return tiles._replace(rows=max(tiles.rows, 1 << (group - 1).bit_length()))  # a token's heads stay together
