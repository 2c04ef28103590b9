"""Paged attention against the textbook formula, over random batches, shapes and cache layouts."""

from __future__ import annotations

import random

import pytest
import torch

from rowspan.kernels.isa import available_isas
from rowspan.kernels.ops import LayerCache
from rowspan.kernels.registry import kernels_for
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.inputs import step_inputs

CPU = torch.device("cpu")


def textbook(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int, window: int | None) -> torch.Tensor:
    """q (M, heads, D) at positions first …; k, v (L, kv heads, D) → (M, heads, D), in float64, one head at a time."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for row in range(q.shape[0]):
        at = first + row
        seen = slice(0 if window is None else max(0, at - window + 1), at + 1)
        for head in range(q.shape[1]):
            keys, values = k[seen, head // group].double(), v[seen, head // group].double()
            weights = torch.softmax(keys @ q[row, head].double() / q.shape[2] ** 0.5, dim=0)
            out[row, head] = weights @ values
    return out


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("window", [None, 7, 300])
@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), [(3, 3, 64), (1, 1, 32), (2, 8, 128), (4, 1, 80)])
def test_random_batches_agree_with_the_textbook(
    kv_heads: int, group: int, head_dim: int, window: int | None, isa: str
) -> None:
    rng = random.Random(f"{kv_heads} {group} {head_dim} {window}")
    torch.manual_seed(rng.getrandbits(32))
    block_size, n_blocks = rng.choice([(16, 120), (32, 60), (7, 250)])
    kernels = kernels_for(CPU, torch.float32, isa, threads=2)
    # What was never written is poison: any use of it shows.
    cache = LayerCache(*(torch.full((n_blocks * block_size, kv_heads, head_dim), float("nan")) for _ in "kv"))
    free = list(range(n_blocks))
    rng.shuffle(free)

    chunks, stored = [], []
    for seq_id in range(5):
        position = rng.choice([0, 0, 1, block_size, 255, 256, 300])
        length = rng.choice([1, 1, 2, 5, 40])
        total = position + length
        blocks = tuple(free.pop() for _ in range(-(-total // block_size)))
        chunks.append(Chunk(seq_id, (0,) * length, position, blocks, samples=True))
        k, v = torch.randn(2, total, kv_heads, head_dim)
        slots = torch.tensor([blocks[at // block_size] * block_size + at % block_size for at in range(position)])
        if position:
            kernels.write_cache(cache, slots, k[:position], v[:position])
        stored.append((k, v))

    inputs = step_inputs(StepPlan(0, tuple(chunks)), block_size, CPU)
    q = torch.randn(len(inputs.tokens), kv_heads * group, head_dim)
    new_k = torch.cat([k[chunk.position :] for chunk, (k, _) in zip(chunks, stored, strict=True)])
    new_v = torch.cat([v[chunk.position :] for chunk, (_, v) in zip(chunks, stored, strict=True)])
    kernels.write_cache(cache, inputs.slots, new_k, new_v)
    result = kernels.attention(q, cache, inputs, window).view(q.shape)

    row = 0
    for chunk, (k, v) in zip(chunks, stored, strict=True):
        rows = slice(row, row + len(chunk.tokens))
        expected = textbook(q[rows], k, v, chunk.position, window)
        torch.testing.assert_close(result[rows].double(), expected, atol=2e-6, rtol=2e-5)
        row += len(chunk.tokens)


@pytest.mark.parametrize("isa", available_isas())
def test_a_rank_without_heads_gets_nothing_back(isa: str) -> None:
    cache = LayerCache(torch.empty(64, 0, 32), torch.empty(64, 0, 32))
    inputs = step_inputs(StepPlan(0, (Chunk(0, (1, 2, 3), 0, (0,), True),)), 32, CPU)
    kernels = kernels_for(CPU, torch.float32, isa, threads=1)
    assert kernels.attention(torch.empty(3, 0, 32), cache, inputs, None).shape == (3, 0)
