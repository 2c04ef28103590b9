"""Paged attention on cards against torch's and the textbook, over random batches, shapes, options, cache types and
layouts.

Where there is no card, Triton's interpreter runs the kernels: some milliseconds a program, so batches are small.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kit.textbook_attention import textbook_attention
from kit.triton_device import DEVICE, HAS_CARD
from torch import Tensor

from rowspan.errors import UsageError
from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.torch.inputs import tensor_inputs
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.triton.attention import decode as attention_decode
from rowspan.kernels.triton.attention import prefill as attention_prefill
from rowspan.kernels.triton.attention.paged import attention
from rowspan.kernels.triton.attention.tile_sizes import Tiles
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.step_inputs import step_inputs

ORACLE = TorchKernels(torch.float32, DEVICE)
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Shape(NamedTuple):
    kv_heads: int
    group: int
    key_size: int
    value_size: int
    block_size: int


def alike(kv_heads: int, group: int, head_size: int, block_size: int) -> Shape:
    return Shape(kv_heads, group, head_size, head_size, block_size)


@dataclass
class Paged:
    """A cache of NaN but for what sequences have written, as float32 and as kernels read it."""

    exact: Cache
    held: Cache
    blocks: list[tuple[int, ...]]


def new_cache(shape: Shape, lengths: list[int], type: str, rng: random.Random) -> Paged:
    """Sequences of these lengths, in blocks scattered about."""
    needed = [-(-length // shape.block_size) for length in lengths]
    free = rng.sample(range(sum(needed) + 5), sum(needed))
    blocks = [tuple(free.pop() for _ in range(n)) for n in needed]
    slots = (sum(needed) + 5) * shape.block_size
    written = torch.zeros(slots, dtype=torch.bool)
    for length, ours in zip(lengths, blocks, strict=True):
        at = np.arange(length)
        written[np.array(ours)[at // shape.block_size] * shape.block_size + at % shape.block_size] = True

    exact, sides, scales = [], [], []
    for elements in (shape.key_size, shape.value_size):
        size = (slots, shape.kv_heads, elements)
        if type == "int8":
            codes = torch.randint(-127, 128, size, dtype=torch.int8)
            scale = torch.where(written[:, None], torch.rand(size[:2]) / 50 + 0.005, math.nan)
            exact.append(codes * scale[..., None])
            sides.append(codes)
            scales.append(scale)
        else:
            values = torch.where(written[:, None, None], torch.randn(size), math.nan).to(FLOATS[type])
            exact.append(values.float())
            sides.append(values)
    held = Cache(*(part.to(DEVICE) for part in (*sides, *scales)))
    return Paged(Cache(*(side.to(DEVICE) for side in exact)), held, blocks)


def run(
    q: Tensor,
    cache: Paged,
    shape: Shape,
    chunks: list[tuple[int, int]],
    options: AttentionOptions,
    sinks: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    padding: int = 0,
    max_query: int | None = None,
) -> Tensor:
    """attention() of chunks (first position, length), one of each sequence, as steps give them; in a step with room for
    `padding` more sequences."""
    lengths = [length for _, length in chunks] + [0] * padding
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    positions = [at for first, length in chunks for at in range(first, first + length)]
    table = torch.full((len(lengths), max(map(len, cache.blocks)) + 1), 2**30, dtype=torch.int32)  # nobody's blocks
    for row, blocks in enumerate(cache.blocks):
        table[row, : len(blocks)] = torch.tensor(blocks)
    return attention(
        q,
        cache.held,
        table.to(DEVICE),
        starts.to(DEVICE),
        torch.tensor(positions, dtype=torch.int32, device=DEVICE),
        shape.block_size,
        max_query or max(lengths),
        options,
        sinks,
        gate,
    )


def expected(q: Tensor, cache: Paged, shape: Shape, chunks: list[tuple[int, int]], options: AttentionOptions) -> Tensor:
    plan = tuple(
        Chunk(n, (0,) * length, first, blocks, True)
        for n, ((first, length), blocks) in enumerate(zip(chunks, cache.blocks, strict=True))
    )
    inputs = tensor_inputs(step_inputs(StepPlan(0, plan), shape.block_size), DEVICE)
    return ORACLE.attention(q.float(), cache.exact, inputs, options)


def assert_close(result: Tensor, exact: Tensor, cache: Paged, products: torch.dtype) -> None:
    """Weights are rounded to the type of the products, which moves a mean of values by that share of the largest at
    most; then the result is rounded. float32 itself: sums of some hundred numbers, scores up to about 10."""
    rounded = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
    largest = cache.exact.v.nan_to_num().abs().max().item()
    torch.testing.assert_close(
        result.float(),
        exact,
        atol=2e-6 + rounded[products] * largest,
        rtol=2e-5 + rounded[result.dtype],
    )


@pytest.fixture(autouse=True)
def poisoned_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves out shows as NaN."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(math.nan))


@pytest.fixture(autouse=True)
def small_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces for each program, and several tiles of queries, in the small batches an interpreter can do."""
    monkeypatch.setattr(attention_decode, "PROGRAMS", 8)
    if not HAS_CARD:
        monkeypatch.setattr(attention_prefill, "prefill_tiles", lambda *_, **__: Tiles(32, 32, 4, 1))


DECODING = [(299, 1), (0, 1), (31, 1), (512, 1)]
CHUNKS = [(0, 37), (100, 6)]
MIXED = [(0, 5), (290, 1), (70, 20), (0, 1)]
CASES = [  # KV heads, heads of each, head size, block size; type of q and of the cache; window
    (DECODING, alike(2, 4, 64, 16), "float32", "float32", None),
    (DECODING, alike(1, 1, 32, 7), "float32", "float32", 40),
    (DECODING, alike(1, 3, 80, 16), "bfloat16", "bfloat16", None),
    (DECODING, alike(1, 8, 128, 32), "float16", "float16", 300),
    (DECODING, alike(1, 20, 96, 16), "bfloat16", "float16", 260),
    (DECODING, alike(2, 3, 64, 16), "float16", "int8", None),
    (CHUNKS, alike(1, 4, 64, 16), "float32", "float32", None),
    (CHUNKS, alike(1, 3, 112, 16), "float16", "float16", 1),
    (CHUNKS, alike(2, 1, 32, 7), "float32", "float32", 20),
    (CHUNKS, alike(1, 8, 128, 16), "bfloat16", "bfloat16", 90),
    (CHUNKS, alike(1, 20, 64, 32), "float16", "int8", None),
    (MIXED, alike(1, 4, 64, 16), "float16", "float16", None),
    (MIXED, alike(1, 3, 256, 32), "float32", "float16", 33),
    (MIXED, alike(2, 2, 80, 16), "float32", "int8", 70),
]


@pytest.mark.parametrize(("chunks", "shape", "q_type", "cache_type", "window"), CASES)
def test_random_batches_agree_with_torch(
    chunks: list[tuple[int, int]], shape: Shape, q_type: str, cache_type: str, window: int | None
) -> None:
    rng = random.Random(f"{shape} {window}")
    torch.manual_seed(rng.getrandbits(32))
    cache = new_cache(shape, [first + length for first, length in chunks], cache_type, rng)
    width = shape.kv_heads * shape.group * shape.key_size
    rows = sum(length for _, length in chunks)
    q = torch.randn(rows, width + 32).to(DEVICE, FLOATS[q_type])[:, 16 : 16 + width]  # columns of q, k and v together
    result = run(q, cache, shape, chunks, AttentionOptions(window=window))
    products = FLOATS[q_type if q_type == "float32" or cache_type == "int8" else cache_type]
    assert result.dtype == q.dtype
    assert_close(result, expected(q, cache, shape, chunks, AttentionOptions(window=window)), cache, products)


@pytest.mark.parametrize(
    ("chunks", "shape", "type"), [(MIXED, alike(2, 3, 80, 16), "int8"), (MIXED, alike(1, 2, 64, 32), "float16")]
)
def test_values_in_parts(
    chunks: list[tuple[int, int]], shape: Shape, type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where registers do not hold a head's sums; of 80 columns the second part is not full."""
    monkeypatch.setattr(attention_prefill, "prefill_tiles", lambda *_, **__: Tiles(32, 32, 4, 1, value_parts=2))
    monkeypatch.setattr(attention_decode, "decode_tiles", lambda *_, **__: Tiles(16, 32, 4, 1, value_parts=2))
    rng = random.Random(5)
    torch.manual_seed(5)
    cache = new_cache(shape, [first + length for first, length in chunks], type, rng)
    rows = sum(length for _, length in chunks)
    q = torch.randn(rows, shape.kv_heads * shape.group * shape.key_size).to(DEVICE, torch.float16)
    result = run(q, cache, shape, chunks, AttentionOptions())
    assert_close(result, expected(q, cache, shape, chunks, AttentionOptions()), cache, torch.float16)


@dataclass(frozen=True)
class Case:
    chunks: list[tuple[int, int]]
    shape: Shape
    options: AttentionOptions
    has_sinks: bool = False
    has_gate: bool = False
    q_type: str = "float32"
    cache_type: str = "float32"


CASES_OF_OPTIONS = [
    Case(MIXED, alike(2, 3, 32, 16), AttentionOptions(scale=0.4)),
    Case(MIXED, alike(2, 3, 32, 16), AttentionOptions(soft_cap=2.5)),
    Case(MIXED, alike(1, 2, 64, 16), AttentionOptions(), has_sinks=True),
    Case(MIXED, alike(2, 2, 32, 16), AttentionOptions(), has_gate=True),
    Case(MIXED, Shape(2, 2, 48, 32, 16), AttentionOptions()),
    Case(MIXED, Shape(2, 1, 32, 96, 16), AttentionOptions(window=50), cache_type="int8"),
    Case(MIXED, alike(1, 2, 512, 16), AttentionOptions(), q_type="float16", cache_type="float16"),
    Case(MIXED, alike(1, 8, 64, 16), AttentionOptions(window=128), True, False, "bfloat16", "bfloat16"),
    Case(DECODING, Shape(1, 2, 192, 128, 16), AttentionOptions(0.1, 300, 30.0), True, True, "float16", "int8"),
    Case(CHUNKS, Shape(1, 2, 192, 128, 16), AttentionOptions(0.1, 20, 30.0), True, True, "float16", "int8"),
]


@pytest.mark.parametrize("case", CASES_OF_OPTIONS)
def test_options_agree_with_the_textbook(case: Case) -> None:
    chunks, shape, options = case.chunks, case.shape, case.options
    rng = random.Random(str(case))
    torch.manual_seed(rng.getrandbits(32))
    cache = new_cache(shape, [first + length for first, length in chunks], case.cache_type, rng)
    n_heads, rows = shape.kv_heads * shape.group, sum(length for _, length in chunks)
    q_type = FLOATS[case.q_type]
    q = torch.randn(rows, n_heads * shape.key_size).to(DEVICE, q_type)
    sinks = torch.randn(n_heads).add(2).to(DEVICE, q_type) if case.has_sinks else None
    wide = 2 * torch.randn(rows, n_heads * shape.value_size + 32).to(DEVICE, q_type)
    gate = wide[:, 16:-16] if case.has_gate else None  # columns of a wider tensor
    result = run(q, cache, shape, chunks, options, sinks, gate)
    assert result.shape == (rows, n_heads * shape.value_size)
    assert result.dtype == q_type

    parts, row = [], 0
    for (first, length), blocks in zip(chunks, cache.blocks, strict=True):
        at = torch.arange(first + length)
        slots = torch.tensor(blocks)[at // shape.block_size] * shape.block_size + at % shape.block_size
        k, v = (side[slots.to(DEVICE)].cpu() for side in (cache.exact.k, cache.exact.v))
        ours = slice(row, row + length)
        gates = None if gate is None else gate[ours].reshape(length, n_heads, -1).cpu()
        heads = q[ours].view(length, n_heads, -1).cpu()
        parts.append(textbook_attention(heads, k, v, first, options, None if sinks is None else sinks.cpu(), gates))
        row += length
    exact = torch.cat(parts).flatten(1).float().to(DEVICE)
    products = FLOATS[case.q_type if case.q_type == "float32" or case.cache_type == "int8" else case.cache_type]
    assert_close(result, exact, cache, products)


def test_padded_sequences_and_rows_are_harmless() -> None:
    """A captured graph of eight rows that runs with five."""
    shape, rng = alike(1, 2, 32, 16), random.Random(1)
    torch.manual_seed(1)
    chunks = [(20, 1), (3, 1), (60, 1)]
    cache = new_cache(shape, [first + length for first, length in chunks], "float32", rng)
    q = torch.randn(8, 64, device=DEVICE)
    result = run(q, cache, shape, chunks, AttentionOptions(), padding=5)
    assert_close(result[:3], expected(q[:3], cache, shape, chunks, AttentionOptions()), cache, torch.float32)
    # a step that might have longer sequences
    more = run(q, cache, shape, chunks, AttentionOptions(), padding=5, max_query=4)
    assert torch.equal(more[:3], result[:3])


@pytest.mark.parametrize(
    ("options", "has_sinks"),
    [(AttentionOptions(), False), (AttentionOptions(window=50), False), (AttentionOptions(soft_cap=3.0), True)],
)
def test_bits_depend_neither_on_company_nor_on_chunks(
    options: AttentionOptions, has_sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, rng = alike(1, 2, 32, 16), random.Random(2)
    torch.manual_seed(2)
    chunks = [(64, 40), (555, 1), (0, 3)]
    cache = new_cache(shape, [first + length for first, length in chunks], "float32", rng)
    q = torch.randn(44, 64, device=DEVICE)
    sinks = torch.randn(2, device=DEVICE) if has_sinks else None
    together = run(q, cache, shape, chunks, options, sinks)
    # A prompt in two pieces.
    for first, last in ((0, 13), (13, 40)):
        alone = Paged(cache.exact, cache.held, cache.blocks[:1])
        part = run(q[first:last], alone, shape, [(64 + first, last - first)], options, sinks)
        assert torch.equal(part, together[first:last])
    # A decoding sequence alone, with as many programs as there may be, and with one.
    alone = Paged(cache.exact, cache.held, cache.blocks[1:2])
    for programs in (1, 1000):
        monkeypatch.setattr(attention_decode, "PROGRAMS", programs)
        assert torch.equal(run(q[40:41], alone, shape, [(555, 1)], options, sinks), together[40:41])


def test_more_pieces_than_are_added_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_decode, "PIECE", 64)
    shape, rng = alike(1, 1, 32, 16), random.Random(3)
    torch.manual_seed(3)
    chunks = [(2200, 1)]
    cache = new_cache(shape, [2201], "float32", rng)
    q = torch.randn(1, 32, device=DEVICE)
    for window in (None, 330):
        result = run(q, cache, shape, chunks, AttentionOptions(window=window))
        assert_close(result, expected(q, cache, shape, chunks, AttentionOptions(window=window)), cache, torch.float32)


def test_pieces_grow_only_where_scratch_memory_would_be_too_large() -> None:
    assert attention_decode.piece_length(1, 32, 128, 131072) == attention_decode.PIECE
    assert attention_decode.piece_length(64, 32, 128, 16384) == attention_decode.PIECE
    length = attention_decode.piece_length(256, 32, 128, 131072)
    assert length % attention_decode.PIECE == 0
    assert 256 * 32 * (131072 // length) * 128 * 4 <= attention_decode.SCRATCH


def test_keys_and_values_of_two_types_are_refused() -> None:
    q, k = torch.zeros(1, 32, device=DEVICE), torch.zeros(16, 1, 32, device=DEVICE)
    one = torch.zeros(1, 1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(UsageError, match="cache-type"):
        attention(q, Cache(k, k.half()), one, one[0], one[0], 16, 1, AttentionOptions())


def test_heads_that_are_too_wide_are_refused_by_their_size() -> None:
    q, k = torch.zeros(1, 576, device=DEVICE), torch.zeros(16, 1, 576, device=DEVICE)
    one = torch.zeros(1, 1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(UsageError, match="heads of 576 elements"):
        attention(q, Cache(k, k[..., :512]), one, one[0], one[0], 16, 1, AttentionOptions())


def test_a_rank_without_heads() -> None:
    nothing = torch.zeros(3, 0, device=DEVICE)
    cache = torch.zeros(16, 0, 32, device=DEVICE)
    starts = torch.tensor([0, 3], dtype=torch.int32, device=DEVICE)
    table = torch.zeros(1, 1, dtype=torch.int32, device=DEVICE)
    at = torch.arange(3, dtype=torch.int32, device=DEVICE)
    assert attention(nothing, Cache(cache, cache), table, starts, at, 16, 3, AttentionOptions()).shape == (3, 0)
