"""Converts a step's inputs to tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rowspan.kernels.ops import StepInputs


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences with equally many query tokens in this step, which attention computes together: B sequences, M tokens
    each.
    """

    token_rows: Tensor  # int64 (B, M): their rows among the step's T tokens
    positions: Tensor  # int64 (B, M)
    # int64 (groups of layers, B, L): cache slot of position 0, 1, …; padded with any valid slot to a common length L
    slots: Tensor
    lengths: Sequence[int]  # B: positions written, those of this step included


@dataclass(frozen=True)
class TensorInputs:
    """`rowspan.kernels.ops.StepInputs` as tensors on a device."""

    tokens: Tensor
    positions: Tensor
    cache_slots: Tensor  # (groups of layers, T)
    groups: Sequence[AttentionGroup]
    output_rows: Tensor
    logit_rows: Tensor | None  # among the output rows; None: all of them
    step: StepInputs  # what all this was made of


def tensor_inputs(inputs: StepInputs, device: torch.device) -> TensorInputs:
    return TensorInputs(
        tokens=torch.from_numpy(inputs.tokens).to(device),
        positions=torch.from_numpy(inputs.positions).to(device),
        cache_slots=torch.from_numpy(inputs.cache_slots).to(device),
        groups=attention_groups(inputs, device),
        output_rows=torch.from_numpy(inputs.output_rows).to(device),
        logit_rows=None if inputs.logit_rows is None else torch.from_numpy(inputs.logit_rows).to(device),
        step=inputs,
    )


def attention_groups(inputs: StepInputs, device: torch.device) -> list[AttentionGroup]:
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for sequence, length in enumerate((inputs.starts[1:] - inputs.starts[:-1]).tolist()):
        if length:
            by_length[length].append(sequence)
    groups = []
    for length, members in by_length.items():
        rows = torch.from_numpy(inputs.starts[members])[:, None] + torch.arange(length)
        positions = torch.from_numpy(inputs.positions)[rows]
        slots = torch.from_numpy(inputs.slots[:, members])
        lengths = (positions[:, -1] + 1).tolist()
        groups.append(AttentionGroup(rows.to(device), positions.to(device), slots.to(device), lengths))
    return groups
