"""Turns a step plan into the index tensors the kernels take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

from rowspan.kernels.ops import KEY_TILE, AttentionGroup, StepInputs
from rowspan.scheduler.batch import Chunk, StepPlan


def step_inputs(plan: StepPlan, block_size: int, device: torch.device) -> StepInputs:
    """Tokens of all chunks in the plan's order; chunks of equal length are attended to together."""
    tokens: list[int] = []
    positions: list[int] = []
    sample_rows: list[int] = []
    by_length: defaultdict[int, list[tuple[int, Chunk]]] = defaultdict(list)
    for chunk in plan.chunks:
        by_length[len(chunk.tokens)].append((len(tokens), chunk))
        tokens.extend(chunk.tokens)
        positions.extend(range(chunk.position, chunk.position + len(chunk.tokens)))
        if chunk.samples:
            sample_rows.append(len(tokens) - 1)

    slots = torch.empty(len(tokens), dtype=torch.long)
    groups = []
    for length, members in by_length.items():
        starts = torch.tensor([start for start, _ in members])[:, None]
        token_rows = starts + torch.arange(length)
        first = torch.tensor([chunk.position for _, chunk in members])[:, None]
        at = first + torch.arange(length)
        table = _slot_table((chunk for _, chunk in members), block_size)
        slots[token_rows] = table.gather(1, at)
        lengths = [chunk.position + length for _, chunk in members]
        groups.append(AttentionGroup(token_rows.to(device), at.to(device), table.to(device), lengths))
    return StepInputs(
        tokens=torch.tensor(tokens, device=device),
        positions=torch.tensor(positions, device=device),
        slots=slots.to(device),
        groups=groups,
        sample_rows=torch.tensor(sample_rows, dtype=torch.long, device=device),
    )


def _slot_table(chunks: Iterable[Chunk], block_size: int) -> torch.Tensor:
    """Slots of every position of each chunk's sequence, (chunks, positions). Padding repeats block 0."""
    tables = [chunk.blocks for chunk in chunks]
    longest = max(len(blocks) for blocks in tables) * block_size
    width = -(-longest // KEY_TILE) * KEY_TILE
    n_blocks = -(-width // block_size)
    padded = torch.tensor([[*blocks, *(0 for _ in range(n_blocks - len(blocks)))] for blocks in tables])
    slots = padded[:, :, None] * block_size + torch.arange(block_size)
    return slots.flatten(1)[:, :width]
