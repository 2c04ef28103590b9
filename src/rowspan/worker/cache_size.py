"""How large a rank's cache gets: as large as was asked for, and on a card no larger than what is really free once the
weights are loaded and the largest steps have been tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rowspan.kernels.ops import DeviceMemoryError, LayerCache, StepInputs, StepLimits
from rowspan.model.transformer import Transformer
from rowspan.plan.fit import cache_bytes
from rowspan.worker.messages import WorkerSetup


def make_caches(setup: WorkerSetup, model: Transformer[Any], n_blocks: int) -> Sequence[LayerCache]:
    """One for each of the rank's layers. Raises DeviceMemoryError."""
    shape = (n_blocks * setup.block_size, len(model.shard.kv_heads), model.plan.spec.head_dim)
    return [model.kernels.cache(*shape, setup.cache_dtypes) for _ in model.weights.layers]


def cache_blocks(setup: WorkerSetup, model: Transformer[Any], limits: StepLimits) -> int:
    """Blocks that there is room for, and no more than asked for.

    Raises:
        DeviceMemoryError: there is none for a single one, or for a step.
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
    heads = len(model.weights.layers) * len(model.shard.kv_heads)
    each = setup.block_size * heads * sum(cache_bytes(model.plan.spec.head_dim, name) for name in setup.cache_dtypes)
    blocks = room // each if each else setup.n_blocks
    if not blocks:
        raise DeviceMemoryError(
            f"{room / 2**20:.0f} MiB are left beside weights and the largest step, of the share that may be used"
        )
    return min(setup.n_blocks, blocks)


def all_widths(most: int) -> list[int]:
    """Numbers of tokens, one for each kernel that steps of up to so many may need: it is then compiled, or found not to
    run on this card, before anyone waits for an answer. Kernels are chosen by the next power of two, and compiled
    anew for 1 and for multiples of 16."""
    powers = [1 << exponent for exponent in range(most.bit_length())]
    return sorted({*powers, *(power - 1 for power in powers), most - 1, most // 16 * 16, most} - {0})


def one_prompt(limits: StepLimits, tokens: int) -> StepInputs:
    """So many tokens of one sequence, or of as few as can be; all in the cache's first block."""
    longest = limits.blocks * limits.block_size
    starts = np.append(np.arange(0, tokens, longest), tokens)
    firsts = np.zeros(len(starts) - 1, np.int64)
    blocks = np.zeros((len(starts) - 1, limits.blocks), np.int32)
    outputs = np.arange(min(tokens, limits.outputs))
    return StepInputs(np.zeros(tokens, np.int64), starts, firsts, blocks, limits.block_size, outputs)


def all_decode(limits: StepLimits) -> StepInputs:
    """As many sequences as a step may have, with tables as long as they get; this is also what graphs take."""
    n = limits.outputs
    zeros = np.zeros(n, np.int64)
    blocks = np.zeros((n, limits.blocks), np.int32)
    return StepInputs(zeros, np.arange(n + 1), zeros, blocks, limits.block_size, np.arange(n))
