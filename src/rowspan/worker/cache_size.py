"""Chooses the size of a rank's KV cache: as large as was asked for, but on a card no larger than the memory that is
really free once the weights are loaded and the largest steps have been tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rowspan.kernels.ops import DeviceMemoryError, LayerCache, StepInputs, StepLimits
from rowspan.model.transformer import Transformer
from rowspan.plan.fit import shard_position_bytes
from rowspan.worker.messages import WorkerSetup


def make_caches(setup: WorkerSetup, model: Transformer[Any], n_blocks: int) -> Sequence[LayerCache]:
    """One for each of the rank's layers. Raises DeviceMemoryError.

    Args:
        n_blocks: of a group of layers that keeps everything: see `CacheLayout`.
    """
    spec, held = model.plan.spec, model.shard.layers.as_slice()
    pools = setup.cache_layout.pools(n_blocks)
    return [
        model.kernels.cache(
            pools[group] * setup.cache_layout.block_size,
            *layer.mixer.cached(len(cut.heads)),
            setup.cache_dtypes,
            group,
        )
        for layer, cut, group in zip(spec.layers[held], model.shard.cuts, spec.layer_groups[held], strict=True)
    ]


def cache_blocks(setup: WorkerSetup, model: Transformer[Any], limits: StepLimits) -> int:
    """Number of cache blocks that there is room for, up to the number asked for.

    Raises:
        DeviceMemoryError: there is no room for a single block, or for a step.
    """
    memory = model.kernels.memory
    if memory is None:
        return setup.n_blocks  # the engine has counted the host's memory
    alone = replace(model, caches=make_caches(setup, model, 1), comm=memory.detached(model.comm))
    step = model.kernels.capture(alone.forward, limits, profiling=True)
    for tokens in all_widths(limits.tokens):
        step(one_prompt(limits, tokens))
    largest_steps = [lambda: step(one_prompt(limits, limits.tokens)), lambda: step(all_decode(limits))]
    room = memory.profile(largest_steps, setup.memory_share, setup.sharers)
    each = shard_position_bytes(model.plan, model.shard, setup.cache_dtypes)
    size = setup.cache_layout.block_size
    blocks = setup.cache_layout.tokens_within(room, each, setup.n_blocks * size) // size
    if not blocks:
        raise DeviceMemoryError(
            f"{room / 2**20:.0f} MiB are left beside weights and the largest step, of the share that may be used"
        )
    return blocks


def all_widths(most: int) -> list[int]:
    """Numbers of tokens, one for each kernel that steps of up to `most` tokens may need: running these compiles the
    kernels, or shows that they cannot run on this card, before anyone waits for an answer. Kernels are chosen by the
    next power of two, and compiled anew for 1 and for multiples of 16.
    """
    powers = [1 << exponent for exponent in range(most.bit_length())]
    return sorted({*powers, *(power - 1 for power in powers), most - 1, most // 16 * 16, most} - {0})


def one_prompt(limits: StepLimits, tokens: int) -> StepInputs:
    """So many tokens of one sequence, or of as few as can be; all in the cache's first block. All that can be is wanted
    of them."""
    longest = limits.blocks * limits.block_size
    starts = np.append(np.arange(0, tokens, longest), tokens)
    firsts = np.zeros(len(starts) - 1, np.int64)
    tables = np.zeros((limits.groups, len(starts) - 1, limits.blocks), np.int32)
    outputs, logits = np.arange(tokens), np.arange(min(tokens, limits.logits))
    zeros = np.zeros(tokens, np.int64)
    return StepInputs(zeros, starts, firsts, tables, limits.block_size, outputs, logits, hidden_rows=outputs)


def all_decode(limits: StepLimits) -> StepInputs:
    """As many sequences as a step may have, with tables as long as they get; this is also what graphs take."""
    n = limits.logits
    zeros = np.zeros(n, np.int64)
    tables = np.zeros((limits.groups, n, limits.blocks), np.int32)
    return StepInputs(zeros, np.arange(n + 1), zeros, tables, limits.block_size, np.arange(n))
