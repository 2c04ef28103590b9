"""Ops in plain torch on the data that Triton's kernels work on, for cards that one of these cannot run on. All other
ops are `rowspan.kernels.torch.small_ops` as they are, and `unpack.linear`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rowspan.kernels.ops import AttentionOptions, StepInputs
from rowspan.kernels.torch import attention as paged
from rowspan.kernels.torch.inputs import AttentionGroup, attention_groups
from rowspan.kernels.torch.kv_cache import Cache, write_cache
from rowspan.kernels.torch.small_ops import Angles, rope
from rowspan.kernels.triton.inputs import CardInputs


def rope_and_cache(q: Tensor, k: Tensor, v: Tensor, table: Angles | None, cache: Cache, inputs: CardInputs) -> Tensor:
    """`rowspan.kernels.ops.Kernels.rope_and_cache` in plain torch."""
    if table is not None:
        q, k = (rope(x, table, cache.k.shape[2], inputs.positions) if x.numel() else x for x in (q, k))
    write_cache(cache, inputs.cache_slots[cache.group].long(), k, v)
    return q


def attention(
    q: Tensor,
    cache: Cache,
    inputs: CardInputs,
    options: AttentionOptions,
    sinks: Tensor | None,
    gate: Tensor | None,
) -> Tensor:
    """Attention in plain torch. It cannot be captured in a graph: the host fetches which rows belong together."""
    groups = _groups(q.device, cache, inputs) if q.numel() else []
    return paged.attention(q, cache, groups, options, sinks, gate)


def _groups(device: torch.device, cache: Cache, inputs: CardInputs) -> list[AttentionGroup]:
    starts, positions = (part.cpu().numpy().astype(np.int64) for part in (inputs.starts, inputs.positions))
    tables = torch.stack(list(inputs.tables)).cpu().numpy()
    nothing = np.zeros(0, np.int64)
    first_positions = positions[np.minimum(starts[:-1], len(positions) - 1)]
    step = StepInputs(nothing, starts, first_positions, tables, inputs.block_size, nothing)
    last = len(cache.k) - 1  # of the block for sequences that only fill up a graph only the first slot is there
    return [replace(group, slots=group.slots.clamp(max=last)) for group in attention_groups(step, device)]
