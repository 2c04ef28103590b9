"""A card whose memory is full: the cache takes what there is, steps that do not fit are computed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.fake_card import FakeCard, FakeCardKernels
from kit.gguf_builder import TinyModel
from kit.http_server import eventually
from kit.thread_ranks import start

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.errors import EngineError, OutOfMemoryError
from rowspan.kernels.isa import TORCH
from rowspan.scheduler.request import SamplingParams

MODEL = TinyModel("llama", hidden_size=64, n_heads=4, n_kv_heads=2, ffn_size=96, n_layers=2, context_length=256)
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
PROMPTS = [[3 + i] * (20 + 9 * i) for i in range(6)]
BLOCK = (
    16 * 2 * 2 * 4 * 16 * 2
)  # bytes: 16 positions, 2 layers, keys and values, float32, heads of 16 elements, 2 of them


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def open_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def opened(card: FakeCard, **options: Any) -> Iterator[Engine]:
        monkeypatch.setattr("rowspan.worker.worker.kernels_for", lambda *args: FakeCardKernels(card))
        config = EngineConfig(
            path,
            cpu_isa=TORCH,
            **{"parallel": 4, "token_budget": 64, "block_size": 16, "gpu_memory_utilization": 1.0, **options},
        )
        with Engine(make_blueprint(config), start=start) as engine:
            yield engine

    return opened


def run(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    return [token.token for piece in engine.generate(prompt, params) for token in piece.tokens]


def run_all(engine: Engine) -> list[list[int]]:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: run(engine, prompt), PROMPTS))


@pytest.fixture(scope="module")
def expected(path: Path) -> list[list[int]]:
    with Engine.open(EngineConfig(path, cpu_isa=TORCH, parallel=4, block_size=16)) as engine:
        return [run(engine, prompt) for prompt in PROMPTS]


def weights(open_on: Callable[..., Any]) -> int:
    with open_on(FakeCard(1 << 30)) as engine:
        return int(engine.ready[0].weight_bytes)


def test_the_cache_takes_what_weights_and_the_largest_steps_leave(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    held = weights(open_on)
    # Profiling keeps free what 64 tokens take, and 4 that decode; rope's angles are held beside the weights.
    card = FakeCard(held + 256 * 16 * 4 + 68 * 1000 + 30 * BLOCK)
    with open_on(card) as engine:
        assert 24 <= engine.ready[0].n_blocks <= 30
        assert engine.stats().blocks_total == engine.ready[0].n_blocks
        assert run_all(engine) == expected
    assert card.refused == 0


def test_a_share_of_the_card_is_left_to_others(open_on: Callable[..., Any]) -> None:
    held = weights(open_on)
    card = FakeCard(2 * (held + 40 * BLOCK), token=0)
    with open_on(card, gpu_memory_utilization=0.6) as engine:
        assert card.caches == engine.ready[0].n_blocks * BLOCK
        assert 0.5 * card.total < held + card.caches <= 0.6 * card.total


def test_what_is_not_needed_is_not_taken(open_on: Callable[..., Any]) -> None:
    with open_on(FakeCard(1 << 30), context_size=64, parallel=2) as engine:
        assert engine.ready[0].n_blocks == 2 * 64 // 16


def test_a_context_that_was_asked_for_and_has_no_room_is_refused(open_on: Callable[..., Any]) -> None:
    held = weights(open_on)
    with (
        pytest.raises(OutOfMemoryError, match="have room for a cache of"),
        open_on(FakeCard(held + 256 * 16 * 4 + 80 * 1000 + 8 * BLOCK), context_size=256),
    ):
        pass
    with pytest.raises(EngineError, match="too little memory") as none, open_on(FakeCard(held + 20_000)):
        pass
    assert none.value.fix


@pytest.mark.parametrize("full_for", [1, pytest.param(3, marks=pytest.mark.heavy)])
def test_a_full_card_gives_steps_back_and_answers_stay_the_same(
    open_on: Callable[..., Any], expected: list[list[int]], full_for: int
) -> None:
    card = FakeCard(1 << 30)
    with open_on(card) as engine:
        first = run(engine, PROMPTS[0])
        card.full_for = full_for
        assert run_all(engine) == expected
        assert engine.stats().preemptions > 0
        assert first == expected[0]
        largest = max(int(entry.split()[0]) for entry in card.log[-20:])
    assert card.refused == full_for
    assert largest <= max(64 >> full_for, 4 + 16), "steps are smaller from then on"


def test_a_card_that_others_fill_goes_on_with_a_smaller_cache(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    held = weights(open_on)
    card = FakeCard(held + 256 * 16 * 4 + 68 * 1000 + 60 * BLOCK)
    with open_on(card) as engine:
        before = engine.stats().blocks_total
        card.others = 40 * BLOCK
        card.full_for = 1
        assert run_all(engine) == expected
        assert 8 < engine.stats().blocks_total < before


def test_a_card_without_room_for_the_largest_step_goes_on_with_smaller_ones(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    card = FakeCard(weights(open_on) + 256 * 16 * 4 + 68 * 4000 + 30 * BLOCK, token=4000)
    with open_on(card) as engine:
        pieces = engine.generate(PROMPTS[0], GREEDY)
        found = [token.token for token in next(pieces).tokens]
        left = 36 * 4000 + 13 * BLOCK
        assert left < 64 * 4000
        card.others = 68 * 4000 + 30 * BLOCK - left
        found += [token.token for piece in pieces for token in piece.tokens]
        assert found == expected[0]
        assert run_all(engine) == expected
        assert 10 <= engine.stats().blocks_total <= 13
    assert max(int(entry.split()[0]) for entry in card.log[-20:] if entry.endswith("tokens")) <= 32


def test_requests_that_no_longer_fit_are_told_and_the_others_go_on(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    held = weights(open_on)
    card = FakeCard(held + 256 * 16 * 4 + 68 * 1000 + 30 * BLOCK)
    with open_on(card) as engine:
        pieces = engine.generate([1] * 180, SamplingParams(temperature=0, max_tokens=70, ignore_eos=True))
        next(pieces)
        card.others = 24 * BLOCK
        card.full_for = 1
        with pytest.raises(OutOfMemoryError, match="no room for this request") as told:
            list(pieces)
        assert told.value.fix
        assert run(engine, PROMPTS[0]) == expected[0]


def test_a_card_that_stays_full_is_an_error_and_no_end(open_on: Callable[..., Any], expected: list[list[int]]) -> None:
    card, threads = FakeCard(1 << 30), threading.active_count()
    with open_on(card) as engine:
        assert run(engine, PROMPTS[0]) == expected[0]
        card.full_for = 1000
        with pytest.raises(OutOfMemoryError, match="smallest step"):
            run(engine, PROMPTS[1])
        card.full_for = 0
        assert run(engine, PROMPTS[1]) == expected[1]
    assert eventually(lambda: threading.active_count() <= threads), "each group of workers ends its own"


def test_parked_weights_leave_the_card_empty_and_the_next_request_brings_them_back(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    card = FakeCard(1 << 30)
    with open_on(card) as engine:
        assert run(engine, PROMPTS[0]) == expected[0]
        assert engine.offload()
        assert card.caches == 0
        assert card.log[-1] == "offloaded"
        assert run(engine, PROMPTS[0]) == expected[0], "nothing of the old cache may be used"
        assert "restored" in card.log
        pieces = engine.generate(PROMPTS[1], GREEDY)
        next(pieces)
        assert not engine.offload(), "a request is running"
        list(pieces)


def test_what_is_in_the_hosts_memory_cannot_be_parked(path: Path) -> None:
    with Engine.open(EngineConfig(path, block_size=16)) as engine:
        assert not engine.offload()
        assert len(run(engine, PROMPTS[0])) == 40


def test_an_int8_cache_holds_more_and_is_parked_like_any_other(
    open_on: Callable[..., Any], expected: list[list[int]]
) -> None:
    held = weights(open_on)
    card = FakeCard(held + 256 * 16 * 4 + 68 * 1000 + 30 * BLOCK)
    with open_on(card, cache_type_k="q8_0", cache_type_v="q8_0") as engine:
        ready = engine.ready[0]
        assert ready.cache_bytes == card.caches == ready.n_blocks * BLOCK * (16 + 4) // (4 * 16)
        assert ready.n_blocks == 64, "all that four requests of 256 tokens can use; of float32 there are 30"
        answers = run_all(engine)
        assert engine.offload()
        assert card.caches == 0
        assert [run(engine, prompt) for prompt in PROMPTS] == answers
