"""Steps planned while the one before is computed: on a card that is not there, and works by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.fake_card import FakeCard
from kit.fake_stream import StreamKernels
from kit.gguf_builder import TinyModel
from kit.thread_ranks import start

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.errors import EngineError, OutOfMemoryError
from rowspan.kernels.isa import TORCH
from rowspan.scheduler.request import FinishReason, SamplingParams

MODEL = TinyModel("llama", hidden_size=64, n_heads=4, n_kv_heads=2, ffn_size=96, n_layers=2, context_length=256)
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
KINDS = [
    GREEDY,
    SamplingParams(temperature=1.0, max_tokens=24, ignore_eos=True, logprobs=2),
    SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.02, max_tokens=24, logit_bias={5: 3.0}),
    SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=0),
]
PENALIZED = SamplingParams(temperature=0.7, repeat_penalty=1.3, presence_penalty=0.5, max_tokens=24, ignore_eos=True)

Answer = list[tuple[int, float | None]]


def run(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> Answer:
    return [(t.token, t.logprob) for piece in engine.generate(prompt, params) for t in piece.tokens]


def jobs(n: int, kinds: list[SamplingParams]) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(n)
    return [
        (rng.choices(range(200), k=rng.randint(1, 60)), replace(kinds[i % len(kinds)], seed=i, max_tokens=5 + 2 * i))
        for i in range(n)
    ]


def run_all(engine: Engine, asked: list[tuple[list[int], SamplingParams]]) -> list[Answer]:
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda job: run(engine, *job), asked))


def same(found: list[Answer], expected: list[Answer]) -> bool:
    assert [[token for token, _ in each] for each in found] == [[token for token, _ in each] for each in expected]
    values = [value for each in found for _, value in each]
    assert values == pytest.approx([value for each in expected for _, value in each], abs=1e-5)
    return True


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def plain(path: Path) -> Iterator[Engine]:
    """One step at a time."""
    with Engine.open(EngineConfig(path, cpu_isa=TORCH, parallel=4, block_size=16)) as engine:
        assert not engine.ready[0].ahead
        yield engine


@pytest.fixture
def open_on(path: Path, plain: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def opened(card: FakeCard, **options: Any) -> Iterator[Engine]:
        vocabulary = plain.blueprint.spec.vocab_size
        monkeypatch.setattr("rowspan.worker.worker.kernels_for", lambda *args: StreamKernels(card, vocabulary))
        config = EngineConfig(path, cpu_isa=TORCH, **{"parallel": 4, "token_budget": 64, "block_size": 16, **options})
        with Engine(make_blueprint(config), start=start) as engine:
            assert engine.ready[0].ahead
            yield engine

    return opened


def overlaps(card: FakeCard) -> int:
    """How often a step was launched before the one before had been fetched."""
    events = [entry.split() for entry in card.log if entry.startswith(("launched", "fetched"))]
    return sum(
        what == "launched" and ["fetched", str(int(n) - 1)] not in events[:at] and n != "1"
        for at, (what, n) in enumerate(events)
    )


def test_the_next_step_is_launched_before_the_last_is_fetched(open_on: Callable[..., Any], plain: Engine) -> None:
    card = FakeCard(1 << 30, step_seconds=0.02)
    with open_on(card) as engine:
        assert run(engine, [1, 2, 3]) == run(plain, [1, 2, 3])
    assert overlaps(card) >= 20, "of 24 steps"


@pytest.mark.parametrize("kinds", [KINDS, [*KINDS, PENALIZED]])
def test_company_changes_nothing(open_on: Callable[..., Any], plain: Engine, kinds: list[SamplingParams]) -> None:
    asked = jobs(6, kinds)
    card = FakeCard(1 << 30)
    with open_on(card) as engine:
        assert same(run_all(engine, asked), [run(plain, *job) for job in asked])
    assert overlaps(card) > 0


def test_preemption_changes_nothing(open_on: Callable[..., Any], plain: Engine) -> None:
    asked = [([i] * 5, replace(KINDS[i % 2], seed=i, max_tokens=30)) for i in range(5)]
    with open_on(FakeCard(1 << 30), cache_tokens=16 * 6, context_size=16 * 6) as engine:
        assert same(run_all(engine, asked), [run(plain, *job) for job in asked])
        assert engine.stats().preemptions > 0


def test_a_request_of_one_token_waits_for_no_other_plan(open_on: Callable[..., Any]) -> None:
    with open_on(FakeCard(1 << 30)) as engine:
        for _ in range(3):
            assert len(run(engine, [1, 2], replace(GREEDY, max_tokens=1))) == 1


def test_stop_tokens_and_strings_and_leaving_end_requests_while_a_step_is_under_way(
    open_on: Callable[..., Any], plain: Engine
) -> None:
    card = FakeCard(1 << 30, step_seconds=0.005)
    expected = [token for token, _ in run(plain, [7] * 20)]
    stop = expected[5]
    with open_on(card) as engine:
        for _ in range(3):
            pieces = list(engine.generate([7] * 20, replace(GREEDY, ignore_eos=False, stop_tokens=frozenset({stop}))))
            assert pieces[-1].finish is FinishReason.STOP
            assert pieces[-1].generated == expected.index(stop) + 1
            left = engine.generate([1, 2, 3], GREEDY)
            next(left)
            left.close()
            assert [token for token, _ in run(engine, [7] * 20)] == expected
        assert engine.stats().blocks_used == 0
        assert engine.offload(), "a step that nobody waits for any more is no reason not to"
        assert [token for token, _ in run(engine, [7] * 20)] == expected


@pytest.mark.parametrize("when", [1, *(pytest.param(when, marks=pytest.mark.heavy) for when in (0, 5))])
def test_a_card_that_is_full_in_the_midst_of_two_steps(open_on: Callable[..., Any], plain: Engine, when: int) -> None:
    card = FakeCard(1 << 30, step_seconds=0.002)
    asked = jobs(3, [GREEDY, KINDS[1]])
    with open_on(card) as engine:
        pieces = engine.generate([9] * 30, GREEDY)
        for _ in range(when):
            next(pieces)
        card.full_for = 1
        assert same(run_all(engine, asked), [run(plain, *job) for job in asked])
        rest = [token.token for piece in pieces for token in piece.tokens]
        assert rest == [token for token, _ in run(plain, [9] * 30)][when:]
    assert card.refused == 1


def test_a_card_that_stays_full_is_an_error_and_no_end(open_on: Callable[..., Any]) -> None:
    card = FakeCard(1 << 30)
    with open_on(card) as engine:
        expected = run(engine, [4, 5])
        card.full_for = 1000
        with pytest.raises(OutOfMemoryError, match="smallest step"):
            run(engine, [4, 5])
        card.full_for = 0
        assert run(engine, [4, 5]) == expected


def test_an_error_on_the_card_is_told_and_the_next_request_is_answered(
    open_on: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = FakeCard(1 << 30)
    with open_on(card) as engine:
        expected = run(engine, [4, 5])
        pieces = engine.generate([4, 5], replace(GREEDY, max_tokens=200))
        next(pieces)
        card.broken = True
        with pytest.raises(EngineError, match="illegal memory access"):
            list(pieces)
        card.broken = False
        assert run(engine, [4, 5]) == expected
