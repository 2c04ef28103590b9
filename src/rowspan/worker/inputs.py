"""Turns a step plan into the index arrays the kernels take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rowspan.kernels.ops import StepInputs
from rowspan.scheduler.batch import LATEST, StepPlan


def step_inputs(plan: StepPlan, block_size: int, latest: Callable[[int], int] | None = None) -> StepInputs:
    """Tokens of all chunks in the plan's order.

    Args:
        latest: what stands for LATEST of a sequence, of which it is given the id. None: there is none in this plan.
    """
    chunks = plan.chunks
    lengths = np.array([len(chunk.tokens) for chunk in chunks], np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))
    first_positions = np.array([chunk.position for chunk in chunks], np.int64)
    sequence = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(starts[-1]) - (starts[:-1] - first_positions)[sequence]

    blocks = np.zeros((len(chunks), max((len(chunk.blocks) for chunk in chunks), default=0)), np.int32)
    for row, chunk in enumerate(chunks):
        blocks[row, : len(chunk.blocks)] = chunk.blocks

    tokens = np.array([token for chunk in chunks for token in chunk.tokens], np.int64)
    for row in np.flatnonzero(tokens == LATEST).tolist():
        assert latest is not None, "this rank does not know what was sampled"
        tokens[row] = latest(chunks[sequence[row]].seq_id)

    return StepInputs(
        tokens=tokens,
        positions=positions,
        cache_slots=blocks[sequence, positions // block_size].astype(np.int64) * block_size + positions % block_size,
        starts=starts,
        blocks=blocks,
        block_size=block_size,
        output_rows=np.array(
            [stop - 1 for stop, chunk in zip(starts[1:], chunks, strict=True) if chunk.samples], np.int64
        ),
    )
