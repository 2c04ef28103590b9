"""What only a card can show. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.kernels.isa import TORCH
from rowspan.plan.device import parse_devices
from rowspan.plan.routes import Transport
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="card: none here")

MODEL = TinyModel(
    "llama", n_heads=4, n_kv_heads=2, hidden_size=256, ffn_size=512, n_layers=4, scheme="Q8_0", tied=False
)
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
PROMPTS = [[(7 * i + j) % 200 for j in range(5 + 13 * i)] for i in range(7)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def opened(path: Path, devices: str, mode: str = "none", **options: Any) -> Engine:
    settings = {"dtype": "float32", "parallel": 4, "block_size": 16, **options}
    return Engine.open(EngineConfig(path, devices=parse_devices(devices), split_mode=SplitMode(mode), **settings))


def answers(engine: Engine, params: SamplingParams = GREEDY) -> list[list[int]]:
    def run(prompt: list[int]) -> list[int]:
        return [token.token for piece in engine.generate(prompt, params) for token in piece.tokens]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(run, PROMPTS))


@pytest.fixture(scope="module")
def expected(path: Path) -> Iterator[list[list[int]]]:
    with opened(path, "cpu:0", cpu_isa=TORCH) as engine:
        yield answers(engine)


def test_torchs_kernels_answer_as_on_the_processor(path: Path, expected: list[list[int]]) -> None:
    with opened(path, "cuda:0") as engine:
        assert engine.ready[0].kernels == "torch"
        assert answers(engine) == expected


@pytest.mark.parametrize("cache", ["f16", "q8_0"])
def test_tritons_kernels_begin_answers_as_the_processor_does(path: Path, expected: list[list[int]], cache: str) -> None:
    """Later tokens may differ, in float16: `benchmarks/gpu_vs_llamacpp.py` compares those of a real model."""
    with opened(path, "cuda:0", dtype="float16", cache_type_k=cache, cache_type_v=cache) as engine:
        assert engine.ready[0].kernels == "triton"
        firsts = answers(engine, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
        assert sum(first != answer[:1] for first, answer in zip(firsts, expected, strict=True)) <= 1


def test_graphs_change_nothing(path: Path) -> None:
    """Alone every token is a graph's; amid others that come and go, of other sizes."""
    with opened(path, "cuda:0", dtype="float16", parallel=1) as engine:
        alone = answers(engine)
    with opened(path, "cuda:0", dtype="float16", parallel=7) as engine:
        together = answers(engine)
    assert [answer[:1] for answer in together] == [answer[:1] for answer in alone]


@pytest.mark.parametrize("mode", ["row", "layer"])
def test_two_ranks_on_one_card_talk_through_the_host(path: Path, expected: list[list[int]], mode: str) -> None:
    with opened(path, "cuda:0,cuda:0", mode) as engine:
        assert engine.blueprint.routes.transports == (Transport.HOST,)
        assert answers(engine) == expected


def test_parked_weights_leave_the_card(path: Path) -> None:
    with opened(path, "cuda:0", dtype="float16") as engine:
        expected = answers(engine)
        before, _ = torch.cuda.mem_get_info()
        assert engine.offload()
        assert torch.cuda.mem_get_info()[0] > before + engine.ready[0].cache_bytes // 2
        assert answers(engine) == expected


def test_workers_that_end_give_everything_back(path: Path) -> None:
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    with opened(path, "cuda:0") as engine:
        answers(engine)
    assert torch.cuda.mem_get_info()[0] >= before - (64 << 20)
