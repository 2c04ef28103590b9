"""A whole engine on the kernels for cards, in Triton's interpreter, against one on torch's: the same tokens, the same
log-probabilities. The interpreter takes a second for a step of this model."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.kernels.isa import TORCH, TRITON
from rowspan.scheduler.request import SamplingParams

MODEL = TinyModel("llama", hidden_size=64, n_heads=2, n_kv_heads=1, ffn_size=64, n_layers=1, context_length=64)
PROMPT = [1, 2, 3, 4, 5]


def answer(path: Path, isa: str, params: SamplingParams) -> list[tuple[int, float | None, list[bytes]]]:
    config = EngineConfig(
        path, cpu_isa=isa, dtype="float16", parallel=2, block_size=16, context_size=64, token_budget=18
    )
    with Engine.open(config) as engine:
        assert engine.ready[0].kernels == isa
        return [
            (token.token, token.logprob, [other for other, _ in token.top])
            for piece in engine.generate(PROMPT, params)
            for token in piece.tokens
        ]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("arch", "scheme", "params"),
    [
        ("llama", "Q4_0", SamplingParams(temperature=0, max_tokens=3, logprobs=3)),
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
