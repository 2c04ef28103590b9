"""Turns a step plan into the index arrays the kernels take, and what they give back into the plan's terms.

Between two steps the processor's caches hold weights, and whatever Python touches comes from memory: plain loops take
half the time of NumPy's calls, of which each is other code."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rowspan.kernels.ops import StepInputs
from rowspan.scheduler.batch import LATEST, HiddenStates, StepPlan


def step_inputs(
    plan: StepPlan, block_size: int, latest: Callable[[int], int] | None = None, n_groups: int = 1
) -> StepInputs:
    """Tokens of all chunks in the plan's order.

    Args:
        latest: what stands for LATEST of a sequence, of which it is given the id. None: there is none in this plan.
        n_groups: of layers, each of which has a table of blocks for every sequence.
    """
    tokens: list[int] = []
    starts, first_positions = [0], list[int]()
    output_rows: list[int] = []
    logit_rows, hidden_rows = list[int](), list[int]()  # among the output rows
    tables = array("i")
    width = max([len(chunk.blocks) for chunk in plan.chunks], default=0) // n_groups
    for seq_id, chosen, position, blocks, samples, hidden in plan.chunks:
        if chosen == (LATEST,):
            assert latest is not None, "this rank does not know what was sampled"
            tokens.append(latest(seq_id))
        else:
            tokens += chosen
        starts.append(len(tokens))
        first_positions.append(position)
        output_rows += range(len(tokens) - max(samples, hidden), len(tokens))
        logit_rows += range(len(output_rows) - samples, len(output_rows))
        hidden_rows += range(len(output_rows) - hidden, len(output_rows))
        if n_groups == 1:
            tables.extend(blocks)
            tables.extend(repeat(0, width - len(blocks)))
    if n_groups > 1:
        tables = _by_group(plan, n_groups, width)
    return StepInputs(
        tokens=np.array(tokens, np.int64),
        starts=np.array(starts, np.int64),
        first_positions=np.array(first_positions, np.int64),
        tables=np.array(tables, np.int32).reshape(n_groups, len(plan.chunks), width),
        block_size=block_size,
        output_rows=np.array(output_rows, np.int64),
        logit_rows=np.array(logit_rows, np.int64) if hidden_rows else None,
        hidden_rows=np.array(hidden_rows, np.int64) if hidden_rows else None,
    )


def _by_group(plan: StepPlan, n_groups: int, width: int) -> array[int]:
    """The tables of all sequences in the first group, then in the next; each filled up to `width`."""
    tables = array("i")
    for group in range(n_groups):
        for chunk in plan.chunks:
            n = len(chunk.blocks) // n_groups
            tables.extend(chunk.blocks[group * n : group * n + n])
            tables.extend(repeat(0, width - n))
    return tables


def hidden_states(plan: StepPlan, rows: NDArray[np.float32] | None) -> tuple[HiddenStates, ...]:
    """Those of a step, (H, hidden size) or none, chunk by chunk."""
    if rows is None:
        return ()
    wanting = [chunk for chunk in plan.chunks if chunk.hidden]
    parts = np.split(rows, np.cumsum([chunk.hidden for chunk in wanting])[:-1])
    return tuple([HiddenStates(chunk.seq_id, part) for chunk, part in zip(wanting, parts, strict=True)])
