"""Taking blocks apart: what the weight schemes share."""

from __future__ import annotations

import torch


def halves(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at byte `start` of every block, [n, 1] float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def bit_fields(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """All fields of `bits` bits, taking `width` bytes at a time: the lowest field of each of them, then the next ones.

    [n, bytes] uint8 → [n, bytes * 8 // bits] uint8.
    """
    mask = (1 << bits) - 1
    flat = packed.reshape(-1, width)
    # One pass per shift, then interleaved: faster than a broadcast shift, whose inner loops are only `width` long.
    return torch.stack([(flat >> shift) & mask for shift in range(0, 8, bits)], dim=1).view(packed.shape[0], -1)
