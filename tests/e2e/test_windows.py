"""Models whose layers see a window only: what is behind it is given back, and nobody can tell by the answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.family_model import FamilyModel
from kit.gguf_builder import TinyModel
from kit.single_rank import SingleRank

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.kernels.isa import TORCH, available_isas
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import Chunk
from rowspan.scheduler.request import SamplingParams

WINDOW, BLOCK = 20, 16
ROUNDS = 30
MODELS: Mapping[str, Any] = {
    "one group": TinyModel("mistral", sliding_window=WINDOW, n_layers=3),
    "two groups": FamilyModel(
        "gemma3", {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": 2, "block_count": 5}
    ),
}
GREEDY = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, folder: Path) -> Path:
    path = folder / f"{request.param}.gguf"
    MODELS[request.param].write(path)
    return path


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(1)
    return [rng.choices(range(200), k=length) for length in (5, 3, 7, 9, 60, 45, 33)]


@pytest.fixture(scope="module", params=available_isas()[:1])
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(model: Path, isa: str, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers from a cache that keeps everything."""
    rank = SingleRank(model, isa=isa, block_size=BLOCK, n_blocks=8, threads=1)
    answers = []
    for prompt in prompts:
        tokens, done = list(prompt), 0
        while len(tokens) < len(prompt) + GREEDY.max_tokens:
            logits = rank.step([Chunk(0, tuple(tokens[done:]), done, range(-(-len(tokens) // BLOCK)), True)])
            done = len(tokens)
            tokens.append(int(logits[-1].argmax()))
        answers.append(tokens[len(prompt) :])
    return answers


@pytest.fixture(params=["cpu:0 none", "cpu:0,cpu:1 layer", "cpu:0,cpu:1 row"])
def engine(request: pytest.FixtureRequest, model: Path, isa: str) -> Iterator[Engine]:
    """With a cache that is far too small for all its parallel requests."""
    devices, mode = request.param.split()
    config = EngineConfig(
        model,
        parse_devices(devices),
        SplitMode(mode),
        cpu_isa=isa,
        dtype="float32",
        parallel=4,
        cache_tokens=128,
        block_size=BLOCK,
        token_budget=48,
        threads=devices.count("cpu"),
    )
    with closing(Engine.open(config)) as engine:
        yield engine


def run(engine: Engine, prompt: list[int]) -> list[int]:
    return [token.token for piece in engine.generate(prompt, GREEDY) for token in piece.tokens]


def test_answers_are_those_of_a_cache_that_keeps_everything(
    engine: Engine, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    check_answers(engine, prompts, expected)


@pytest.mark.parametrize("isa", [TORCH], indirect=True)
@pytest.mark.parametrize("engine", ["cpu:0 none"], indirect=True)
def test_so_they_are_with_torch_s_kernels(engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    check_answers(engine, prompts, expected)


def check_answers(engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    for _ in range(ROUNDS):  # whether requests meet is a matter of time: once is enough
        for few in (slice(0, 4), slice(4, None)):  # short ones, which need little when they are admitted; and others
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda prompt: run(engine, prompt), prompts[few])) == expected[few]
        if engine.stats().preemptions:
            break
    assert engine.stats().preemptions > 0, "the cache was meant to be too small"
    assert engine.stats().blocks_used == 0
    longest, answer = prompts[4], expected[4]
    assert run(engine, longest) == answer, "with what the cache still has of it"


def test_the_next_turn_of_a_chat_finds_what_the_window_still_sees(
    model: Path, prompts: list[list[int]], expected: list[list[int]], isa: str
) -> None:
    longest, answer = prompts[4], expected[4]
    config = EngineConfig(model, cpu_isa=isa, dtype="float32", parallel=1, block_size=BLOCK, token_budget=48, threads=1)
    with closing(Engine.open(config)) as engine:
        assert run(engine, longest) == answer
        begun = 20
        params = replace(GREEDY, max_tokens=len(answer) - begun)
        pieces = list(engine.generate([*longest, *answer[:begun]], params))
    assert [token.token for piece in pieces for token in piece.tokens] == answer[begun:]
    assert pieces[0].cached == (len(longest) + begun - 1) // BLOCK * BLOCK


def test_workers_allocate_what_was_predicted(model: Path, isa: str) -> None:
    devices = parse_devices("cpu:0,cpu:1")
    config = EngineConfig(
        model,
        devices,
        SplitMode.LAYER,
        cpu_isa=isa,
        context_size=256,
        parallel=1,
        block_size=BLOCK,
        token_budget=48,
        threads=2,
    )
    with closing(Engine.open(config)) as engine:
        blueprint = engine.blueprint
        whole = 256 * sum(size.cache_per_token for size in blueprint.sizes)
        assert blueprint.cache.n_blocks == 256 // BLOCK
        assert [worker.cache_bytes for worker in engine.ready] == blueprint.cache_bytes
        # (20 + 48) positions are 5 blocks; with one more, and as many again, 12 of 16.
        windows = sum(layer.mixer.window is not None for layer in blueprint.spec.layers)
        n_layers = blueprint.spec.n_layers
        assert sum(blueprint.cache_bytes) == whole * (16 * (n_layers - windows) + 12 * windows) // (16 * n_layers)
        total = engine.stats().blocks_total
        assert total == 12 if len(blueprint.spec.cache_groups) == 1 else 28
