"""Paged attention against the textbook formula, over random batches, shapes, cache types and layouts."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from kit.native_isas import NATIVE, TILED
from kit.run_ops import run_ops
from kit.textbook_attention import textbook_attention

from rowspan.kernels.device_kernels import kernels_for
from rowspan.kernels.isa import TORCH, available_isas
from rowspan.kernels.ops import AttentionOptions, Kernels, StepInputs
from rowspan.plan.device import Device
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.step_inputs import step_inputs


def new_kernels(isa: str, dtype: str = "float32", threads: int = 2) -> Kernels[Any]:
    return kernels_for(Device("cpu", 0), dtype, isa, threads)


def poison(array: Any) -> None:
    """What was never written is NaN (of int8 a number, with a scale of NaN): any use of it shows."""
    if isinstance(array, torch.Tensor):
        array.fill_(float("nan") if array.is_floating_point() else -1)
    elif array is not None:
        array.view(np.uint8).fill(0xFF)


CASES = [(TORCH, "float32", type) for type in ("float32", "int8")]
CASES += [(isa, "float32", type) for isa in NATIVE for type in ("float32", "float16", "bfloat16", "q8_0", "int16")]
CASES += [(isa, "int8", type) for isa in NATIVE for type in ("float32", "float16", "bfloat16", "q8_0", "int16")]
CASES += [(isa, "int8", "bfloat16") for isa in TILED if isa not in NATIVE]
PRECISION = {
    "float32": 2e-6,
    "float16": 3e-3,
    "bfloat16": 2e-2,
    "q8_0": 3e-2,
    "int8": 4e-2,
    "int16": 2e-3,
}  # of values and scores of about 1
INT8_PRECISION = 2e-3  # of attention in 16-bit integers, whatever it reads


class Case(NamedTuple):
    kv_heads: int
    group: int
    key_size: int
    value_size: int
    options: AttentionOptions
    has_sinks: bool = False
    has_gate: bool = False


CASES_OF_OPTIONS = [
    Case(2, 3, 64, 64, AttentionOptions(scale=0.3)),
    Case(2, 3, 64, 64, AttentionOptions(soft_cap=2.5)),
    Case(1, 8, 64, 64, AttentionOptions(window=128), has_sinks=True),
    Case(2, 2, 80, 80, AttentionOptions(), has_gate=True),
    Case(2, 4, 96, 64, AttentionOptions()),
    Case(3, 1, 64, 128, AttentionOptions()),
    Case(1, 2, 192, 128, AttentionOptions(0.1, window=40, soft_cap=50.0), has_sinks=True, has_gate=True),
    Case(1, 2, 512, 512, AttentionOptions()),
]
WHOLE_TEXTS = [
    Case(2, 1, 64, 64, AttentionOptions(causal=False)),
    Case(3, 2, 32, 32, AttentionOptions(window=30, causal=False)),
    Case(1, 2, 64, 64, AttentionOptions(window=300, causal=False)),
]


@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim", "isa", "dtype", "cache_type"),
    [
        (*heads, *case)
        for heads in [(3, 3, 64), (1, 1, 32), (2, 8, 128), (4, 1, 80)]
        for case in CASES
        if case[2] != "q8_0" or heads[2] % 32 == 0  # it takes 32 elements at a time
    ],
)
@pytest.mark.parametrize("window", [None, 7, 300])
def test_random_batches_agree_with_the_textbook(
    kv_heads: int, group: int, head_dim: int, window: int | None, isa: str, dtype: str, cache_type: str
) -> None:
    check_random_batch(
        Case(kv_heads, group, head_dim, head_dim, AttentionOptions(window=window)), isa, dtype, cache_type
    )


@pytest.mark.parametrize(("isa", "dtype", "cache_type"), [(TORCH, "float32", type) for type in ("float32", "int8")])
@pytest.mark.parametrize("case", CASES_OF_OPTIONS)
def test_options_agree_with_the_textbook(case: Case, isa: str, dtype: str, cache_type: str) -> None:
    check_random_batch(case, isa, dtype, cache_type)


@pytest.mark.parametrize(("isa", "dtype", "cache_type"), CASES)
@pytest.mark.parametrize("case", WHOLE_TEXTS)
def test_whole_texts_agree_with_the_textbook(case: Case, isa: str, dtype: str, cache_type: str) -> None:
    check_random_batch(case, isa, dtype, cache_type)


def check_random_batch(case: Case, isa: str, dtype: str, cache_type: str) -> None:
    """Random sequences, some of which have a past, through the ops that write the cache and attend to it."""
    kv_heads, group, key_size, value_size, options, has_sinks, has_gate = case
    n_heads = kv_heads * group
    rng = random.Random(str(case).replace(", causal=True", ""))  # what other cases are has not changed
    torch.manual_seed(rng.getrandbits(32))
    block_size, n_blocks = rng.choice([(16, 300), (32, 160), *([(7, 700)] if cache_type != "int16" else [])])
    cache: Any = new_kernels(isa).cache(n_blocks * block_size, kv_heads, key_size, value_size, (cache_type, cache_type))
    of_torch = (cache.k, cache.v, cache.k_scales, cache.v_scales) if isa == TORCH else ()
    for array in of_torch or (cache.k.data, cache.k.scales, cache.v.data, cache.v.scales):
        poison(array)
    free = list(range(n_blocks))
    rng.shuffle(free)

    chunks, past, stored = [], [], []
    for seq_id in range(5):
        position = rng.choice([0, 0, 1, block_size, 255, 256, 300, 600, 1100]) if options.causal else 0
        length = rng.choice([1, 1, 2, 5, 40] if options.causal else [1, 5, 40, 150, 290, 530])
        blocks = tuple(free.pop() for _ in range(-(-(position + length) // block_size)))
        chunks.append(Chunk(seq_id, (0,) * length, position, blocks, samples=True))
        if position:
            past.append(Chunk(seq_id, (0,) * position, 0, blocks, samples=True))
        stored.append([torch.randn(position + length, kv_heads * size) for size in (key_size, value_size)])
    sinks = torch.randn(n_heads) + 3 if has_sinks else None

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: StepInputs, gate: torch.Tensor | None = None
    ) -> torch.Tensor:
        kernels: Any = new_kernels(isa, dtype, threads=rng.choice([1, 2, 3]))
        held = None if sinks is None else kernels.vector(sinks.numpy(), norm=False)

        def model(q: Any, k: Any, v: Any, *rest: Any) -> Any:
            *gates, inputs = rest
            kernels.write_cache(cache, k, v, inputs)
            return kernels.attention(q, cache, inputs, options, held, *gates)

        given = [x.numpy() for x in (q, k, v, gate) if x is not None]
        return torch.from_numpy(run_ops(kernels, model, *given, inputs=inputs))

    def new_rows(side: int, of: list[Chunk]) -> torch.Tensor:
        parts = [stored[chunk.seq_id][side][chunk.position : chunk.position + len(chunk.tokens)] for chunk in of]
        return torch.cat(parts)

    if past:  # fill the cache; what comes out is looked at below, with the rows that follow
        k, v = new_rows(0, past), new_rows(1, past)
        attend(torch.randn(len(k), n_heads * key_size), k, v, step_inputs(StepPlan(0, tuple(past)), block_size))
    inputs = step_inputs(StepPlan(0, tuple(chunks)), block_size)
    q = torch.randn(len(inputs.tokens), n_heads * key_size)
    gate = 2 * torch.randn(len(q), n_heads * value_size) if has_gate else None
    result = attend(q, new_rows(0, chunks), new_rows(1, chunks), inputs, gate).view(-1, n_heads, value_size)

    heads = q.view(len(q), n_heads, key_size)
    for chunk, start, stop in zip(chunks, inputs.starts[:-1], inputs.starts[1:], strict=True):
        k, v = (side.view(len(side), kv_heads, -1) for side in stored[chunk.seq_id])
        gates = None if gate is None else gate[start:stop].view(stop - start, n_heads, value_size)
        expected = textbook_attention(heads[start:stop], k, v, chunk.position, options, sinks, gates)
        precision = PRECISION[cache_type] + (INT8_PRECISION if dtype == "int8" else 0)
        torch.testing.assert_close(result[start:stop].double(), expected, atol=precision, rtol=2e-5)


@pytest.mark.parametrize(("isa", "cache_type"), [*((isa, "float32") for isa in available_isas()), (TORCH, "int8")])
def test_a_rank_without_heads_gets_nothing_back(isa: str, cache_type: str) -> None:
    kernels = new_kernels(isa)
    cache = kernels.cache(64, 0, 32, 32, (cache_type, cache_type))
    inputs = step_inputs(StepPlan(0, (Chunk(0, (1, 2, 3), 0, (0,), True),)), 32)

    def model(q: Any, inputs: Any) -> Any:
        return kernels.attention(q, cache, inputs, AttentionOptions())

    out = run_ops(kernels, model, np.empty((3, 0), np.float32), inputs=inputs)
    assert out.shape == (3, 0)


@pytest.mark.parametrize("isa", NATIVE)
def test_blocks_of_an_int16_cache_are_whole_tiles(isa: str) -> None:
    kernels: Any = new_kernels(isa, "int8")
    cache = kernels.cache(7 * 16, 1, 32, 32, ("float16", "int16"))
    inputs = step_inputs(StepPlan(0, (Chunk(0, (1, 2), 0, (0,), True),)), block_size=7)
    rows = np.zeros((2, 32), np.float32)

    def model(k: Any, v: Any, i: Any) -> Any:
        kernels.write_cache(cache, k, v, i)
        return v

    with pytest.raises(ValueError, match="tiles of 16 slots, not 7"):
        run_ops(kernels, model, rows, rows, inputs=inputs)


def in_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One head of causal attention in float64, but for what tiles round to bfloat16: scaled q, and the weights of each
    256 keys relative to the largest of them. q, k, v (L, D)."""
    scale = torch.tensor(math.log2(math.e)) / torch.tensor(math.sqrt(q.shape[1]), dtype=torch.float32)
    scores = (q * scale).bfloat16().double() @ k.double().T
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
    total, values = torch.zeros(len(q), 1, dtype=torch.float64), torch.zeros(q.shape, dtype=torch.float64)
    for chunk in (slice(first, first + 256) for first in range(0, len(q), 256)):
        highest = scores[:, chunk].max(dim=1, keepdim=True).values
        weights = torch.exp2(scores[:, chunk] - highest).nan_to_num(0.0).float().bfloat16().double()
        weights = weights * torch.exp2(highest)
        total += weights.sum(dim=1, keepdim=True)
        values += weights @ v[chunk].double()
    return values / total


@pytest.mark.parametrize("isa", TILED)
@pytest.mark.parametrize("head_dim", [64, 80])
def test_tiles_round_q_and_weights_only(isa: str, head_dim: int) -> None:
    """Keys and values that are bfloat16 lose nothing."""
    torch.manual_seed(head_dim)
    length, kv_heads, group = 300, 2, 3
    kernels: Any = new_kernels(isa, "int8")
    cache = kernels.cache(320, kv_heads, head_dim, head_dim, ("bfloat16", "bfloat16"))
    q = torch.randn(length, kv_heads * group, head_dim) * 3
    k, v = torch.randn(2, length, kv_heads, head_dim).bfloat16().float()

    def model(q: Any, k: Any, v: Any, inputs: Any) -> Any:
        kernels.write_cache(cache, k, v, inputs)
        return kernels.attention(q, cache, inputs, AttentionOptions())

    inputs = step_inputs(StepPlan(0, (Chunk(0, (0,) * length, 0, tuple(range(10)), True),)), 32)
    result = torch.from_numpy(run_ops(kernels, model, *(x.flatten(1).numpy() for x in (q, k, v)), inputs=inputs))
    heads = [in_tiles(q[:, head], k[:, head // group], v[:, head // group]) for head in range(kv_heads * group)]
    error = result.view(q.shape).double() - torch.stack(heads, dim=1)
    rounding = textbook_attention(q, k, v, 0, AttentionOptions()) - torch.stack(heads, dim=1)
    # A weight amid two bfloat16 numbers may become either, as float32 sums and exp2 are only that exact.
    assert error.abs().max() < 5e-3
    assert error.square().mean().sqrt() < 0.05 * rounding.square().mean().sqrt()


# Options do not meet what is cached: two types, and bfloat16 where there are tiles, stand for the others.
NATIVE_CASES = [case for case in CASES if case[0] != TORCH and case[2] in ("float32", "int16")]
NATIVE_CASES += [(isa, "int8", "bfloat16") for isa in TILED]
CASES_OF_NATIVE_KERNELS = [  # scores of about 1, as the precisions are
    Case(2, 3, 64, 64, AttentionOptions(scale=0.05)),
    Case(2, 3, 64, 64, AttentionOptions(soft_cap=0.7)),
    Case(3, 2, 64, 64, AttentionOptions(), has_sinks=True),
    Case(1, 8, 64, 64, AttentionOptions(window=300), has_sinks=True),
    Case(2, 2, 64, 64, AttentionOptions(), has_gate=True),
    Case(2, 4, 96, 64, AttentionOptions()),
    Case(3, 1, 64, 160, AttentionOptions(window=7), has_gate=True),
    Case(2, 3, 80, 48, AttentionOptions(0.1, window=300, soft_cap=2.0), has_sinks=True, has_gate=True),
    Case(1, 2, 256, 256, AttentionOptions()),
    Case(1, 2, 512, 512, AttentionOptions(soft_cap=30.0), has_sinks=True),
    Case(1, 2, 512, 256, AttentionOptions(), has_gate=True),
]


@pytest.mark.parametrize(("isa", "dtype", "cache_type"), NATIVE_CASES)
@pytest.mark.parametrize("case", CASES_OF_NATIVE_KERNELS)
def test_options_of_native_kernels(case: Case, isa: str, dtype: str, cache_type: str) -> None:
    check_random_batch(case, isa, dtype, cache_type)
