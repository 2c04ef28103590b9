"""Answers that a grammar constrains, at every place of a batch and over several ranks, change nothing for others."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams
from rowspan.text.grammar import Grammar, GrammarError, GrammarKind

REGEX = "(the |a )?(world|hell){1,3}[0-9]"
CONSTRAINED = Grammar(GrammarKind.REGEX, REGEX)


@pytest.mark.parametrize(("devices", "mode"), [("cpu:0", "none"), ("cpu:0,cpu:1", "row")])
def test_in_company_as_alone(tmp_path: Path, devices: str, mode: str) -> None:
    path = TinyModel(tokenizer="spm", context_length=256).write(tmp_path / "tiny.gguf")
    config = EngineConfig(
        path,
        devices=parse_devices(devices),
        split_mode=SplitMode(mode),
        parallel=5,
        token_budget=128,
        threads=len(devices.split(",")),
    )
    free = SamplingParams(max_tokens=16, temperature=1.0, ignore_eos=True)
    jobs = [
        replace(free, seed=number, grammar=CONSTRAINED, ignore_eos=False) if number % 2 else replace(free, seed=number)
        for number in range(6)
    ]

    with Engine.open(config) as engine, ThreadPoolExecutor(len(jobs)) as pool:

        def answer(params: SamplingParams) -> str:
            prompt = engine.tokenizer.encode("the world" * (params.seed or 1))
            return "".join(piece.text for piece in engine.generate(prompt, params))

        together = list(pool.map(answer, jobs))
        assert together == [answer(params) for params in jobs]
        assert all(re.fullmatch(REGEX, text) for text in together[1::2])
        assert len(set(together[1::2])) > 1
        with pytest.raises(GrammarError):
            answer(replace(free, grammar=Grammar(GrammarKind.REGEX, "(")))
