"""Ops in plain torch on what Triton's kernels work on: for cards that one of these cannot run on. Other ops are
`rowspan.kernels.torch.small_ops` as they are, and `unpack.linear`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from rowspan.kernels.ops import StepInputs
from rowspan.kernels.torch import attention as paged
from rowspan.kernels.torch.inputs import attention_groups
from rowspan.kernels.torch.kv_cache import Cache, write_cache
from rowspan.kernels.torch.small_ops import Angles, rope
from rowspan.kernels.triton.inputs import CardInputs


def rope_and_cache(
    q: Tensor, k: Tensor, v: Tensor, table: Angles, head_dim: int, cache: Cache, inputs: CardInputs
) -> Tensor:
    """q rotated; k, rotated, and v are stored in the cache."""
    k = rope(k, table, head_dim, inputs.positions)
    write_cache(cache, inputs.cache_slots.long(), k, v)
    return rope(q, table, head_dim, inputs.positions) if q.numel() else q


def attention(q: Tensor, cache: Cache, inputs: CardInputs, window: int | None) -> Tensor:
    """Not to be captured in a graph: the host fetches which rows belong together."""
    starts, positions = (part.cpu().numpy().astype(np.int64) for part in (inputs.starts, inputs.positions))
    blocks = inputs.blocks.cpu().numpy()
    nothing = np.zeros(0, np.int64)
    first_positions = positions[np.minimum(starts[:-1], len(positions) - 1)]
    step = StepInputs(nothing, starts, first_positions, blocks, inputs.block_size, nothing)
    last = len(cache.k) - 1  # of the block for sequences that only fill up a graph only the first slot is there
    groups = [replace(group, slots=group.slots.clamp(max=last)) for group in attention_groups(step, q.device)]
    return paged.attention(q, cache, groups, window)
