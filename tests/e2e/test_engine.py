"""The engine with its worker processes, on tiny models: company, memory pressure, cancellation, deaths."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually
from kit.leftovers import leftovers

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.errors import (
    ContextOverflowError,
    EngineError,
    RowspanError,
    SplitError,
    UnsupportedModelError,
    UsageError,
)
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import FinishReason, SamplingParams

MODEL = TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=384, n_layers=3, context_length=256)
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def open_engine(path: Path, devices: str = "cpu:0", mode: str = "none", **options: Any) -> Engine:
    return Engine.open(EngineConfig(path, devices=parse_devices(devices), split_mode=SplitMode(mode), **options))


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[Engine]:
    """A cache far too small for all its parallel requests at full length."""
    with open_engine(model_path, parallel=4, cache_tokens=320, block_size=16, token_budget=64) as engine:
        yield engine


def random_prompts(seed: int, n: int, longest: int = 100) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.choices(range(200), k=rng.randint(1, longest)) for _ in range(n)]


def run(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    return [token.token for piece in engine.generate(prompt, params) for token in piece.tokens]


def new_children(before: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process not in before]


def has_ended(worker: psutil.Process) -> bool:
    """With all its threads: files are closed by the last one, and a leader can be a zombie before."""
    return worker.status() == psutil.STATUS_ZOMBIE and worker.num_threads() <= 1


def test_company_and_preemption_change_nothing(engine: Engine) -> None:
    prompts = random_prompts(1, 7)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    alone = [run(engine, prompt, params) for prompt in prompts]
    before = engine.stats().preemptions
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: run(engine, prompt, params), prompts))
    assert together == alone
    stats = engine.stats()
    assert stats.preemptions > before, "the cache was meant to be too small"
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


def test_more_requests_than_slots_wait_their_turn(engine: Engine) -> None:
    prompts = random_prompts(2, 12, longest=10)
    highest = 0
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = [pool.submit(run, engine, prompt) for prompt in prompts]
        while not all(answer.done() for answer in answers):
            highest = max(highest, engine.stats().running)
    assert highest == 4
    assert all(len(answer.result()) == 24 for answer in answers)


def test_a_prefix_is_computed_once(engine: Engine) -> None:
    prompt = random_prompts(3, 1)[0] + [7] * 60
    first = list(engine.generate(prompt, GREEDY))
    again = list(engine.generate([*prompt, 9], GREEDY))
    assert first[0].cached == 0
    assert again[0].cached == len(prompt) // 16 * 16


def test_leaving_early_frees_the_blocks(engine: Engine) -> None:
    pieces = engine.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    next(pieces)
    assert engine.stats().running == 1
    pieces.close()  # type: ignore[attr-defined]
    stats = engine.stats()
    assert (stats.running, stats.blocks_used) == (0, 0)


def test_cancelling_a_task_frees_the_blocks(engine: Engine) -> None:
    async def scenario() -> None:
        async def consume() -> None:
            async for _ in engine.stream([1, 2, 3], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)):
                pass

        task = asyncio.create_task(consume())
        while engine.stats().running == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert engine.stats().blocks_used == 0


def test_stop_strings_and_lengths(engine: Engine) -> None:
    prompt = [5, 6, 7]
    pieces = list(engine.generate(prompt, GREEDY))
    text = "".join(piece.text for piece in pieces)
    assert pieces[-1].finish is FinishReason.LENGTH
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    stopped = list(engine.generate(prompt, GREEDY, [stop]))
    assert "".join(piece.text for piece in stopped) == text[: text.find(stop)]
    assert stopped[-1].finish is FinishReason.STOP
    assert engine.stats().blocks_used == 0


def test_a_full_context_ends_the_answer(engine: Engine) -> None:
    prompt = [3] * 200
    pieces = list(engine.generate(prompt, SamplingParams(temperature=0, max_tokens=1000, ignore_eos=True)))
    assert pieces[-1].finish is FinishReason.LENGTH
    assert pieces[-1].generated == 256 - 200


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ([3] * 256, GREEDY, ContextOverflowError),
        ([], GREEDY, UsageError),
        ([10**6], GREEDY, UsageError),
        ([-1], GREEDY, UsageError),
        ([1], SamplingParams(max_tokens=0), UsageError),
    ],
)
def test_what_cannot_be_done_is_refused(
    engine: Engine, prompt: list[int], params: SamplingParams, error: type[RowspanError]
) -> None:
    with pytest.raises(error) as caught:
        list(engine.generate(prompt, params))
    assert caught.value.fix
    assert len(run(engine, [1, 2])) == 24, "the engine lives on"


@pytest.mark.parametrize(
    ("scheme", "dtype"), [("F32", "float32"), ("Q8_0", "float32"), ("Q4_1", "float32"), ("Q4_0", "bfloat16")]
)
def test_a_plan_foretells_what_the_workers_hold(tmp_path: Path, scheme: str, dtype: str) -> None:
    path = replace(MODEL, scheme=scheme, tied=False).write(tmp_path / "tiny.gguf")
    with open_engine(path, "cpu:0,cpu:1", "row", dtype=dtype, context_size=64) as engine:
        sizes = engine.blueprint.sizes
        assert [worker.weight_bytes for worker in engine.ready] == [size.weights for size in sizes]
        cached = engine.blueprint.cache.n_blocks * engine.blueprint.config.block_size
        assert [worker.cache_bytes for worker in engine.ready] == [size.cache_per_token * cached for size in sizes]


@pytest.mark.parametrize(("mode", "victim"), [("row", 0), ("row", 1), ("layer", 0), ("layer", 1), ("none", 0)])
def test_a_killed_worker_is_an_error_now_and_no_trouble_later(model_path: Path, mode: str, victim: int) -> None:
    before = psutil.Process().children()
    with open_engine(model_path, "cpu:0,cpu:1", mode) as engine:
        expected = run(engine, [1, 2, 3])
        workers = sorted(new_children(before), key=lambda worker: worker.pid)
        assert len(workers) == (1 if mode == "none" else 2)
        params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
        streams = [engine.generate([1, 2, 3 + i], params) for i in range(4)]
        for stream in streams:
            next(stream)
        workers[victim].send_signal(signal.SIGKILL)
        started = time.monotonic()
        for stream in streams:
            with pytest.raises(EngineError, match="signal 9"):
                list(stream)
        assert time.monotonic() - started < 5
        assert run(engine, [1, 2, 3]) == expected
    assert eventually(lambda: not new_children(before))


def test_a_worker_that_is_killed_between_requests_fails_none(model_path: Path) -> None:
    before = psutil.Process().children()
    with open_engine(model_path, "cpu:0,cpu:1", "row") as engine:
        expected = run(engine, [1] * 70)
        new_children(before)[0].send_signal(signal.SIGKILL)
        assert eventually(lambda: any(has_ended(worker) for worker in new_children(before)))
        assert run(engine, [1] * 70) == expected, "nothing of the old cache may be used"


def test_a_worker_that_hangs_is_an_error_within_seconds(model_path: Path) -> None:
    before = psutil.Process().children()
    with open_engine(model_path, "cpu:0,cpu:1", "row", hang_seconds=2.0) as engine:
        expected = run(engine, [1, 2, 3])
        pieces = engine.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
        next(pieces)
        hung = max(new_children(before), key=lambda worker: worker.pid)
        hung.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(EngineError, match="rank 1 has done nothing"):
            list(pieces)
        assert time.monotonic() - started < 7
        assert run(engine, [1, 2, 3]) == expected
    assert eventually(lambda: not new_children(before))


def test_no_worker_outlives_a_killed_engine(model_path: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from rowspan.config import EngineConfig; from rowspan.engine.engine import Engine\n"
        "engine = Engine.open(EngineConfig(Path(sys.argv[1]))); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(model_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        workers = psutil.Process(parent.pid).children()
        assert workers
        os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def test_a_model_that_would_be_misread_is_refused(tmp_path: Path) -> None:
    path = MODEL.write(tmp_path / "odd.gguf")
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_norm.weight", b"blk.1.ffn_sink.weight"))
    with pytest.raises(UnsupportedModelError) as caught:
        open_engine(path)
    assert "ffn_sink" in str(caught.value)


def test_an_impossible_split_is_refused_before_anything_starts(model_path: Path) -> None:
    before = psutil.Process().children()
    with pytest.raises(SplitError):
        open_engine(model_path, "cpu:0,cpu:1,cpu:2,cpu:3", "layer")
    assert not new_children(before)


def test_a_model_whose_text_cannot_be_read_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Its vocabulary is read while its weights are loaded."""
    path = TinyModel(extra={"tokenizer.ggml.pre": "from-mars"}).write(tmp_path / "tiny.gguf")
    with leftovers() as left:
        with pytest.raises(UnsupportedModelError, match="from-mars"):
            Engine.open(EngineConfig(path, context_size=64))
        gc.collect()  # the error has the mapped file in its traceback
        assert not left()
