"""What native attention refuses, what it leaves alone, and what its bits do not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kit.native_isas import NATIVE, TILED
from kit.run_ops import Floats, run_ops

from rowspan._native import BatchDim, CacheSide, CacheType, Cpu, Program
from rowspan.errors import UnsupportedModelError
from rowspan.kernels.cpu.cache import Cache
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.ops import AttentionOptions
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.step_inputs import step_inputs

BLOCK, KV_HEADS, SIZE = 16, 2, 64

pytestmark = pytest.mark.usefixtures("poisoned_buffers")
each_isa = pytest.mark.parametrize("isa", NATIVE)


def poisoned_cache(isa: str, n_blocks: int, type: str) -> Cache:
    cache = CpuKernels(isa, 1, int8=True).cache(n_blocks * BLOCK, KV_HEADS, SIZE, SIZE, (type, type))
    for array in (cache.k.data, cache.k.scales, cache.v.data, cache.v.scales):
        if array is not None:
            array.view(np.uint8).fill(0xFF)
    return cache


def attend(
    kernels: CpuKernels,
    cache: Cache,
    rows: Floats,
    first: int,
    blocks: tuple[int, ...],
    options: AttentionOptions,
    sinks: Floats | None = None,
) -> Floats:
    """rows (3, T, KV heads · size): the queries, keys and values of positions first …"""

    def model(q: Any, k: Any, v: Any, inputs: Any) -> Any:
        kernels.write_cache(cache, k, v, inputs)
        return kernels.attention(q, cache, inputs, options, sinks)

    inputs = step_inputs(StepPlan(0, (Chunk(0, (0,) * rows.shape[1], first, blocks, True),)), BLOCK)
    return run_ops(kernels, model, *rows.copy(), inputs=inputs)


def random_rows(length: int) -> Floats:
    return np.random.default_rng(length).standard_normal((3, length, KV_HEADS * SIZE)).astype(np.float32)


@each_isa
def test_heads_without_room_are_refused(isa: str) -> None:
    """By Python with advice; and by the compiled module, which would write past its buffers."""
    kernels = CpuKernels(isa, 1, int8=True)
    kernels.cache(32, 1, 576, 576, ("float32", "float32"))
    for sizes in ((577, 64), (64, 577), (1024, 1024)):
        with pytest.raises(UnsupportedModelError, match=r"heads of (577|1024) elements.*ROWSPAN_CPU_ISA=torch"):
            kernels.cache(32, 1, *sizes, ("float32", "float32"))

    program = Program(Cpu(isa, 1), 0)
    sides = {size: CacheSide(CacheType.F32, np.empty((1, 32, size), np.float32), None) for size in (64, 577)}
    with pytest.raises(ValueError, match="heads of 577 elements: there is room for 576"):
        program.write_cache(0, sides[577])
    for k, v in ((577, 64), (64, 577)):
        with pytest.raises(ValueError, match="heads of 577 elements: there is room for 576"):
            attention_of(program, sides[k], sides[v])


def attention_of(program: Program, k: CacheSide, v: CacheSide) -> None:
    program.attention(BatchDim.TOKENS, 0, k, v, 1, None, None, None, None, exact=True, out=0)


@each_isa
def test_caches_that_do_not_fit_are_refused(isa: str) -> None:
    floats = np.empty((2, 32, 48), np.float32)
    with pytest.raises(ValueError, match="another type"):
        CacheSide(CacheType.F16, floats, None)
    with pytest.raises(ValueError, match="scales do not fit"):
        CacheSide(CacheType.I16_KEYS, np.empty((2, 32, 48), np.int16), np.empty((2, 31), np.float32))
    program = Program(Cpu(isa, 1), 0)
    side = CacheSide(CacheType.Q8_0, np.empty((2, 32, 48), np.int8), np.empty(2 * 48, np.float16))
    with pytest.raises(ValueError, match="q8_0 takes whole groups of 32"):
        program.write_cache(0, side)
    side = CacheSide(CacheType.F32, floats, None)
    other = CacheSide(CacheType.F32, np.empty((2, 16, 48), np.float32), None)
    with pytest.raises(ValueError, match="not of the same heads and slots"):
        attention_of(program, side, other)


@each_isa
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("type", ["float32", "int16"])
def test_what_is_behind_the_window_is_not_read(isa: str, int8: bool, type: str) -> None:
    """Its blocks may have gone to others: here, to one that is full of NaN."""
    position, window, blocks = 700, 300, tuple(range(50))
    cache, rows, options = poisoned_cache(isa, 64, type), random_rows(position + 2), AttentionOptions(window=window)
    attend(CpuKernels(isa, 2, int8=int8), cache, rows[:, :position], 0, blocks, options)

    def after(blocks: tuple[int, ...]) -> Floats:
        return attend(CpuKernels(isa, 2, int8=int8), cache, rows[:, position:], position, blocks, options)

    behind = (position + 1 - window) // BLOCK
    expected = after(blocks)
    assert np.isfinite(expected).all()
    assert np.array_equal(after((60,) * behind + blocks[behind:]), expected)


@pytest.mark.parametrize("isa", list(dict.fromkeys(NATIVE + TILED)))
@pytest.mark.parametrize("type", ["float32", "bfloat16", "int16"])
def test_bits_do_not_depend_on_company_or_threads(isa: str, type: str) -> None:
    """With all options: a prompt at once, or its tokens one by one, whose chunks of keys several threads share."""
    length, blocks = 600, tuple(range(38))
    rows, options = random_rows(length), AttentionOptions(0.2, window=520, soft_cap=3.0)
    sinks = np.array([0.5, 4.0], np.float32)
    cache = poisoned_cache(isa, 40, type)
    whole = attend(CpuKernels(isa, 1, int8=True), cache, rows, 0, blocks, options, sinks)
    for first, last, threads in ((0, 1, 1), (300, 301, 3), (599, 600, 2), (590, 600, 3), (100, 400, 2)):
        kernels = CpuKernels(isa, threads, int8=True)
        part = attend(kernels, cache, rows[:, first:last], first, blocks, options, sinks)
        assert np.array_equal(part, whole[first:last])


@each_isa
def test_tables_of_several_kinds_of_caches(isa: str) -> None:
    """Two caches of one program, each with its own table of blocks."""
    rows = random_rows(40)[1]
    memory = {kind: np.full((1, 160, KV_HEADS * SIZE), np.nan, np.float32) for kind in (0, 1)}
    tables = [np.array([[3, 1, 2]], np.int32), np.array([[7, 9, 8]], np.int32)]
    program = Program(Cpu(isa, 2), 0)
    for kind in (0, 1):
        program.write_cache(rows.ctypes.data, CacheSide(CacheType.F32, memory[kind], None), table=kind)
    at = np.arange(40)
    with pytest.raises(ValueError, match="no table of blocks"):
        program.begin(at, np.array([0, 40]), np.array([0]), tables[:1], BLOCK, at)
    program.begin(at, np.array([0, 40]), np.array([0]), tables, BLOCK, at)
    program.run(0)
    for kind in (0, 1):
        slots = (tables[kind][0][:, None] * BLOCK + np.arange(BLOCK)).ravel()[:40]
        assert np.array_equal(memory[kind][0, slots], rows)
        assert np.isnan(np.delete(memory[kind][0], slots, axis=0)).all()
