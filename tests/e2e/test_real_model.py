"""SmolLM2-135M-Instruct itself, against transformers, and against itself under every split."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.transformers_reference import real_reference

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.engine.generation import TokenText
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams

PROMPTS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write a haiku about graphics cards."}],
    [{"role": "system", "content": "You answer in one word."}, {"role": "user", "content": "2 + 2 = ?"}],
    [{"role": "user", "content": "Écris une phrase sur les étoiles, puis traduis-la: 日本語で。 🚀"}],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ],
    [
        {
            "role": "user",
            "content": "Explain this code:\n```python\ndef f(n):\n    return n * f(n - 1) if n else 1\n```",
        }
    ],
    [{"role": "user", "content": "List five animals, then their sounds. " * 12}],
    [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and the sea."}],
]


def open_engine(
    path: Path, devices: str = "cpu:0", mode: str = "none", dtype: str = "float32", **options: Any
) -> Engine:
    config = EngineConfig(
        path, devices=parse_devices(devices), split_mode=SplitMode(mode), context_size=1024, dtype=dtype, **options
    )
    return Engine.open(config)


def continue_greedily(engine: Engine, prompts: list[list[int]], n_tokens: int) -> list[list[TokenText]]:
    """All prompts at once, past any end token, with log-probabilities."""
    params = SamplingParams(temperature=0, max_tokens=n_tokens, ignore_eos=True, logprobs=1)

    def run(prompt: list[int]) -> list[TokenText]:
        return [token for piece in engine.generate(prompt, params) for token in piece.tokens]

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(run, prompts))


@pytest.fixture(scope="module")
def alone(smollm2_path: Path) -> Iterator[Engine]:
    with open_engine(smollm2_path) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(alone: Engine) -> list[list[int]]:
    return [alone.encode_chat(messages) for messages in PROMPTS]


@pytest.fixture(scope="module")
def continuations(alone: Engine, prompts: list[list[int]]) -> list[list[TokenText]]:
    return continue_greedily(alone, prompts, 32)


@pytest.mark.parametrize("n_tokens", [32, pytest.param(128, marks=pytest.mark.heavy)])
def test_greedy_tokens_and_logprobs_agree_with_transformers(
    smollm2_path: Path, alone: Engine, prompts: list[list[int]], n_tokens: int
) -> None:
    reference = real_reference(smollm2_path)
    for prompt, continuation in zip(prompts, continue_greedily(alone, prompts, n_tokens), strict=True):
        tokens = [token.token for token in continuation]
        assert len(tokens) == n_tokens
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        # Each of our tokens is the reference's first choice after the same beginning: so the continuations are equal.
        assert logits.argmax(-1).tolist() == tokens
        theirs = torch.log_softmax(logits, -1)[torch.arange(len(tokens)), tokens]
        ours = torch.tensor([token.logprob for token in continuation])
        assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("mode", "n_ranks", "options"),
    [
        ("layer", 2, {}),
        pytest.param("layer", 3, {"tensor_split": (3.0, 1.0, 1.0)}, marks=pytest.mark.heavy),
        pytest.param("row", 2, {}, marks=pytest.mark.heavy),
        ("row", 2, {"tensor_split": (5.0, 1.0)}),
        ("row", 3, {}),
    ],
)
def test_every_split_gives_the_same_tokens(
    smollm2_path: Path,
    prompts: list[list[int]],
    continuations: list[list[TokenText]],
    mode: str,
    n_ranks: int,
    options: dict[str, Any],
) -> None:
    chosen = [0, 3, 4]
    devices = ",".join(f"cpu:{index}" for index in range(n_ranks))
    with open_engine(smollm2_path, devices, mode, **options) as engine:
        split = continue_greedily(engine, [prompts[index] for index in chosen], 32)
    for index, tokens in zip(chosen, split, strict=True):
        assert [token.token for token in tokens] == [token.token for token in continuations[index]]
        ours = torch.tensor([token.logprob for token in tokens])
        theirs = torch.tensor([token.logprob for token in continuations[index]])
        assert (ours - theirs).abs().max() < 1e-3


def test_the_same_seed_gives_the_same_text_in_any_company(alone: Engine, prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=24, seed=1234, ignore_eos=True)

    def run(prompt: list[int]) -> str:
        return "".join(piece.text for piece in alone.generate(prompt, params))

    by_itself = run(prompts[7])
    with ThreadPoolExecutor(len(prompts)) as pool:
        crowd = list(pool.map(run, prompts))
    assert crowd[7] == by_itself
    assert len(set(crowd)) == len(crowd)
