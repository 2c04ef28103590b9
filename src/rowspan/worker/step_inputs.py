"""Turns a step plan into the index arrays the kernels take.

Between two steps the processor's caches hold weights, and whatever Python touches comes from memory: plain loops take
half the time of NumPy's calls, of which each is other code."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import repeat

import numpy as np

from rowspan.kernels.ops import StepInputs
from rowspan.scheduler.batch import LATEST, StepPlan


def step_inputs(plan: StepPlan, block_size: int, latest: Callable[[int], int] | None = None) -> StepInputs:
    """Tokens of all chunks in the plan's order.

    Args:
        latest: what stands for LATEST of a sequence, of which it is given the id. None: there is none in this plan.
    """
    tokens: list[int] = []
    starts, first_positions, output_rows = [0], [], []
    table = array("i")
    width = max([len(chunk.blocks) for chunk in plan.chunks], default=0)
    for seq_id, chosen, position, blocks, samples in plan.chunks:
        if chosen == (LATEST,):
            assert latest is not None, "this rank does not know what was sampled"
            tokens.append(latest(seq_id))
        else:
            tokens += chosen
        starts.append(len(tokens))
        first_positions.append(position)
        if samples:
            output_rows.append(len(tokens) - 1)
        table.extend(blocks)
        table.extend(repeat(0, width - len(blocks)))
    return StepInputs(
        tokens=np.array(tokens, np.int64),
        starts=np.array(starts, np.int64),
        first_positions=np.array(first_positions, np.int64),
        blocks=np.array(table, np.int32).reshape(len(plan.chunks), width),
        block_size=block_size,
        output_rows=np.array(output_rows, np.int64),
    )
