"""Guessed tokens: the answers are those without guesses, token by token, and in company, whatever is asked for."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import Dry, SamplingParams
from rowspan.text.grammar import Grammar, GrammarKind

GREEDY = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
SCHEMA = '{"type": "array", "items": {"type": "boolean"}, "minItems": 12, "maxItems": 12}'
ASKED = {
    "greedy": GREEDY,
    "likely": replace(GREEDY, logprobs=2),
    "drawn": replace(GREEDY, temperature=0.8, top_p=0.9, seed=11),
    "cold": replace(GREEDY, temperature=0.05, seed=3),
    "penalized": replace(GREEDY, repeat_penalty=1.1, repeat_last_n=8, frequency_penalty=0.1),
    "DRY": replace(GREEDY, dry=Dry(0.3, allowed_length=6)),
    "XTC": replace(GREEDY, temperature=0.3, xtc_probability=0.3, seed=8),
    "grammar": replace(GREEDY, ignore_eos=False, grammar=Grammar(GrammarKind.JSON_SCHEMA, SCHEMA)),
    "short": replace(GREEDY, max_tokens=5),
}
SETUPS: dict[str, dict[str, Any]] = {
    "alone": {"devices": parse_devices("cpu:0"), "split_mode": SplitMode.NONE},
    "float32": {"devices": parse_devices("cpu:0"), "split_mode": SplitMode.NONE, "dtype": "float32"},
    "row": {"devices": parse_devices("cpu:0,cpu:1"), "split_mode": SplitMode.ROW},
    "layer": {"devices": parse_devices("cpu:0,cpu:1"), "split_mode": SplitMode.LAYER},
    "scarce": {"devices": parse_devices("cpu:0"), "split_mode": SplitMode.NONE, "cache_tokens": 320, "block_size": 16},
}


def prompts() -> list[list[int]]:
    """Texts that repeat themselves, and one that does not."""
    rng = random.Random(4)
    phrases = [rng.choices(range(20, 200), k=9) for _ in range(3)]
    repeating = [[*phrase, rng.randrange(20, 200), *phrase, *phrase[:5]] for phrase in phrases]
    return [*repeating, rng.choices(range(20, 200), k=30)]


def answer(engine: Engine, prompt: list[int], params: SamplingParams) -> list[tuple[int, float | None]]:
    pieces = engine.generate(prompt, params)
    return [(token.token, token.logprob) for piece in pieces for token in piece.tokens]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("models")
    sizes: dict[str, Any] = {"n_layers": 2, "context_length": 256, "scheme": "Q8_0"}
    plain = TinyModel("llama", **sizes).write(folder / "plain.gguf")
    return {False: plain, True: TinyModel("mistral", sliding_window=24, **sizes).write(folder / "window.gguf")}


def open_engine(path: Path, guesses: int, **options: Any) -> Engine:
    return Engine.open(EngineConfig(path, parallel=4, token_budget=64, guesses=guesses, threads=1, **options))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess as much as possible, whether it pays or not."""
    monkeypatch.setattr("rowspan.scheduler.speculation.best_length", lambda accuracy, times, others, most: most)


@pytest.mark.parametrize(("setup", "window"), [*((name, False) for name in SETUPS), ("alone", True), ("scarce", True)])
def test_answers_are_those_without_guesses(setup: str, window: bool, paths: dict[bool, Path], always: None) -> None:
    options = {"block_size": 32, **SETUPS[setup]}
    jobs = [(prompt, params) for prompt in prompts() for params in ASKED.values()]
    with open_engine(paths[window], 0, **options) as engine:
        expected = [answer(engine, prompt, params) for prompt, params in jobs]
    with open_engine(paths[window], 7, **options) as engine:
        with ThreadPoolExecutor(6) as pool:  # more than run at once: guesses share steps with other requests
            together = list(pool.map(lambda job: answer(engine, *job), jobs))
        alone = [answer(engine, prompt, params) for prompt, params in jobs[:8]]
        stats = engine.stats()
    assert together == expected
    assert alone == expected[:8]
    assert 0 < stats.right_guesses < stats.guessed_tokens
    assert stats.generated_tokens == sum(map(len, [*together, *alone]))


def test_what_a_request_and_its_predecessors_said_is_guessed(paths: dict[bool, Path], always: None) -> None:
    prompt = prompts()[3]
    with open_engine(paths[False], 8, split_mode=SplitMode.NONE, prefix_reuse=False) as engine:
        once = answer(engine, prompt, GREEDY)
        first = engine.stats()
        assert answer(engine, prompt, GREEDY) == once
        again = engine.stats()
        right, guessed = again.right_guesses - first.right_guesses, again.guessed_tokens - first.guessed_tokens
        assert right > 45, "nearly all of it was said by the request before"
        assert right > guessed / 2
        assert answer(engine, prompt, replace(GREEDY, guesses=0)) == once
        assert engine.stats().guessed_tokens == again.guessed_tokens
