"""A whole engine on the kernels for cards, in Triton's interpreter, against one on torch's: the same tokens, the same
log-probabilities. The interpreter takes a second for a step of this model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from kit.family_model import FamilyModel
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.kernels.isa import TORCH, TRITON
from rowspan.scheduler.request import SamplingParams

MODEL = TinyModel("llama", hidden_size=64, n_heads=2, n_kv_heads=1, ffn_size=64, n_layers=1, context_length=64)
PROMPT = [*range(1, 21)]  # two steps: the first gives no logits


def answer(
    path: Path, isa: str, params: SamplingParams, cache: str = "f16", prompt: Sequence[int] = PROMPT
) -> list[tuple[int, float | None, list[bytes]]]:
    config = EngineConfig(
        path,
        cpu_isa=isa,
        dtype="float16",
        parallel=2,
        block_size=16,
        context_size=64,
        token_budget=18,
        cache_type_k=cache,
        cache_type_v=cache,
    )
    with Engine.open(config) as engine:
        assert engine.ready[0].kernels == isa
        positions = engine.ready[0].n_blocks * 16 + (1 if isa == TRITON else 0)  # one that fills up graphs
        assert engine.ready[0].cache_bytes == positions * make_blueprint(config).sizes[0].cache_per_token
        return [
            (token.token, token.logprob, [other for other, _ in token.top])
            for piece in engine.generate(prompt, params)
            for token in piece.tokens
        ]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton: not installed")
@pytest.mark.parametrize(
    ("arch", "scheme", "params"),
    [
        pytest.param(
            *("llama", "Q4_0", SamplingParams(temperature=0, max_tokens=3, logprobs=3)), marks=pytest.mark.heavy
        ),
        ("qwen3", "Q8_0", SamplingParams(seed=7, top_k=20, top_p=0.9, repeat_penalty=1.1, max_tokens=3, logprobs=2)),
    ],
)
def test_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, scheme: str, params: SamplingParams
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = replace(MODEL, architecture=arch, scheme=scheme).write(tmp_path / "tiny.gguf")
    expected, found = (answer(path, isa, replace(params, ignore_eos=True)) for isa in (TORCH, TRITON))
    assert [token for token, _, _ in found] == [token for token, _, _ in expected]
    assert [top[:1] for _, _, top in found] == [top[:1] for _, _, top in expected]
    for (_, one, _), (_, other, _) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-2)


@pytest.mark.heavy  # of all that is in it, tests of the kernels are run always
@pytest.mark.skipif(find_spec("triton") is None, reason="triton: not installed")
def test_an_int8_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a code is 1/254 of a head's largest element: it moves log-probabilities by a few hundredths at most."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = replace(MODEL, scheme="Q8_0").write(tmp_path / "tiny.gguf")
    params = SamplingParams(temperature=0, max_tokens=2, logprobs=3, ignore_eos=True)
    found, on_torch = (answer(path, isa, params, "q8_0") for isa in (TRITON, TORCH))
    exact = answer(path, TORCH, params)
    assert [token for token, _, _ in found] == [token for token, _, _ in on_torch] == [token for token, _, _ in exact]
    assert [one for _, one, _ in found] == pytest.approx([one for _, one, _ in on_torch], abs=2e-2)
    assert [one for _, one, _ in found] == pytest.approx([one for _, one, _ in exact], abs=5e-2)


@pytest.mark.heavy  # of all that is in it, tests of the kernels and of their inputs are run always
@pytest.mark.skipif(find_spec("triton") is None, reason="triton: not installed")
def test_layers_of_two_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer that sees everything, and one whose blocks behind the window are given back."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    sizes = {"block_count": 2, "attention.head_count": 2, "attention.head_count_kv": 1, "feed_forward_length": 64}
    windows = {"attention.sliding_window": 9, "attention.sliding_window_pattern": 2, "context_length": 64}
    model = FamilyModel("gemma3", sizes | windows, scheme="Q8_0")
    assert len(model.spec.cache_groups) == 2
    path = model.write(tmp_path / "tiny.gguf")
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=3, ignore_eos=True)
    found, expected = (answer(path, isa, params, prompt=range(1, 52)) for isa in (TRITON, TORCH))
    assert [token for token, _, _ in found] == [token for token, _, _ in expected]
    assert [one for _, one, _ in found] == pytest.approx([one for _, one, _ in expected], abs=2e-2)
