"""Taking blocks apart: what the weight schemes share."""

from __future__ import annotations

from typing import NamedTuple

import torch


class UnpackedBlocks(NamedTuple):
    """n blocks taken apart: value = scale · code + minimum, with the scale and the minimum of the code's group.

    Those are the block's own, or where it is several groups, products of it and a small integer of each group. They and
    scale · code are exact in float32, since no scheme needs more than 24 bits for them (11 of a float16, and at most
    7 + 5 of Q6_K's scale and code); so a fused multiply-add gives the same value.
    """

    codes: torch.Tensor  # [n, block size] int8
    scale: torch.Tensor  # [n, 1] float32, a float16's value
    minimum: torch.Tensor | None = None  # [n, 1] float32, a float16's value; None: all zero
    sub_scales: torch.Tensor | None = None  # [n, groups of a block] integers of 8 bits; None: a block is one group
    sub_minima: torch.Tensor | None = None  # the same

    @property
    def scales(self) -> torch.Tensor:
        """[n, groups of a block] float32."""
        return self.scale if self.sub_scales is None else self.scale * self.sub_scales.float()

    @property
    def minima(self) -> torch.Tensor | None:
        """[n, groups of a block] float32; None: all zero."""
        if self.minimum is None or self.sub_minima is None:
            return self.minimum
        return self.minimum * self.sub_minima.float()


def values(unpacked: UnpackedBlocks, group: int) -> torch.Tensor:
    """The elements themselves, `group` of which share a scale: a new tensor of the codes' shape, float32."""
    scales, minima = unpacked.scales, unpacked.minima
    result = unpacked.codes.view(*scales.shape, group).float().mul_(scales.unsqueeze(2))
    if minima is not None:
        result.add_(minima.unsqueeze(2))
    return result.flatten(1)


def halves(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at byte `start` of every block, [n, 1] float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def bit_fields(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """All fields of `bits` bits, taking `width` bytes at a time: the lowest field of each of them, then the next ones.

    [n, bytes] uint8 → [n, bytes * 8 // bits] uint8.
    """
    mask = (1 << bits) - 1
    # Contiguous, one pass per shift, then interleaved: faster than passes whose inner loops are only `width` long.
    flat = packed.contiguous().view(-1, width)
    return torch.stack([(flat >> shift) & mask for shift in range(0, 8, bits)], dim=1).view(packed.shape[0], -1)
