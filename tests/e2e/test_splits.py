"""One model over several ranks answers as on one: odd numbers of ranks, odd shares, odd blocks, stages of rows."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.gguf_builder import TinyModel

from rowspan.bench.engines.steps import Steps
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.engine.group import WorkerGroup
from rowspan.kernels.isa import TORCH, native_module
from rowspan.plan.device import parse_devices, parse_ratios
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import StepPlan
from rowspan.scheduler.request import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=0)
# As SmolLM2: three KV heads, and a head tied to the embedding.
THREE_HEADS = TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=384, n_layers=3, context_length=256)
# Two KV heads together make a block of o's inputs; an MLP of three blocks. Biases, which one rank of a stage adds.
BLOCKS = TinyModel(
    "qwen2",
    n_heads=8,
    n_kv_heads=4,
    hidden_size=512,
    ffn_size=768,
    n_layers=3,
    scheme="Q4_K",
    schemes={"ffn_down": "Q6_K"},
)
MODELS = {"three heads": THREE_HEADS, "blocks of 256": BLOCKS}

Answers = list[tuple[list[int], list[float]]]


def answers(
    path: Path, devices: str, mode: str, shares: str | None = None, stages: int = 1, isa: str | None = None
) -> Answers:
    """Greedy tokens and their log-probabilities, of six prompts in company."""
    rng = random.Random(4)
    prompts = [rng.choices(range(200), k=rng.randint(1, 100)) for _ in range(6)]
    config = EngineConfig(
        path,
        devices=parse_devices(devices),
        split_mode=SplitMode(mode),
        tensor_split=parse_ratios(shares) if shares else None,
        stages=stages,
        parallel=4,
        token_budget=96,
        dtype="float32",
        cpu_isa=isa,
    )

    def answer(engine: Engine, prompt: list[int]) -> tuple[list[int], list[float]]:
        tokens = [token for piece in engine.generate(prompt, GREEDY) for token in piece.tokens]
        return [token.token for token in tokens], [token.logprob or 0.0 for token in tokens]

    with Engine.open(config) as engine, ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: answer(engine, prompt), prompts))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answers]:
    """A model, and what it answers on one device."""
    path = MODELS[request.param].write(tmp_path_factory.mktemp("model") / "tiny.gguf")
    return path, answers(path, "cpu:0", "none")


@pytest.mark.parametrize(
    ("n_ranks", "mode", "shares", "stages"),
    [
        (2, "row", None, 1),
        (3, "row", None, 1),
        (5, "row", None, 1),  # ranks without KV heads
        (2, "row", "5,1", 1),
        (2, "row", "1,5", 1),  # the rank that gathers the logits holds the least
        (3, "layer", None, 1),
        (2, "layer", "1,2", 1),
        (4, "row", None, 2),
    ],
)
def test_a_split_answers_as_one_device(
    model: tuple[Path, Answers], n_ranks: int, mode: str, shares: str | None, stages: int
) -> None:
    path, alone = model
    devices = ",".join(f"cpu:{index}" for index in range(n_ranks))
    split = answers(path, devices, mode, shares, stages)
    for (tokens, logprobs), (wanted, wanted_logprobs) in zip(split, alone, strict=True):
        assert tokens == wanted
        np.testing.assert_allclose(logprobs, wanted_logprobs, atol=1e-4)


MIXED_SCHEMES = [
    replace(BLOCKS, scheme="IQ4_NL", schemes={"attn_output": "IQ4_XS", "ffn_down": "IQ4_XS", "ffn_up": "MXFP4"}),
    replace(
        BLOCKS,
        scheme="IQ2_S",
        schemes={
            "token_embd": "IQ3_S",
            "attn_q": "IQ2_XXS",
            "attn_v": "TQ2_0",
            "attn_output": "IQ3_XXS",
            "ffn_down": "IQ1_M",
            "ffn_up": "NVFP4",
        },
        tensor_scales=True,
        norm_type="F64",
    ),
]


@pytest.mark.skipif(native_module() is None, reason="native kernels: none here")
@pytest.mark.parametrize(
    "tiny", [MIXED_SCHEMES[0], pytest.param(MIXED_SCHEMES[1], marks=pytest.mark.heavy)], ids=["4 bits", "fewer bits"]
)
def test_codes_of_a_table_answer_as_torch_does(tmp_path: Path, tiny: TinyModel) -> None:
    """Alone, and cut by rows through blocks of 32 and 256."""
    path = tiny.write(tmp_path / "tiny.gguf")
    wanted = answers(path, "cpu:0", "none", isa=TORCH)
    for devices, mode in (("cpu:0", "none"), ("cpu:0,cpu:1", "row")):
        for (tokens, logprobs), (of_torch, logprobs_of_torch) in zip(answers(path, devices, mode), wanted, strict=True):
            assert tokens == of_torch
            np.testing.assert_allclose(logprobs, logprobs_of_torch, atol=1e-4)


@pytest.mark.skipif(native_module() is None, reason="native kernels: none here")
@pytest.mark.parametrize("mode", ["layer", "row"])
@pytest.mark.parametrize("with_torch", [0, 1])
def test_a_rank_with_torch_works_beside_a_native_one(tmp_path: Path, mode: str, with_torch: int) -> None:
    """As a card does beside a CPU: through the host's memory."""
    path = THREE_HEADS.write(tmp_path / "tiny.gguf")

    def tokens(devices: str, mode: str, torch_ranks: tuple[int, ...]) -> list[int]:
        config = EngineConfig(path, devices=parse_devices(devices), split_mode=SplitMode(mode), dtype="float32")
        blueprint = make_blueprint(config)
        steps = Steps(blueprint.spec.vocab_size, 64, 512, blueprint.cache_layout)
        plans: list[StepPlan] = [*steps.prompt(0, 40), *steps.generation(40, 10)]
        setups = [replace(setup, cpu_isa=TORCH) if setup.rank in torch_ranks else setup for setup in blueprint.setups()]
        group = WorkerGroup(setups, config.hang_seconds)
        try:
            return [sampled.token for plan in plans for sampled in group.run(plan).sampled]
        finally:
            group.close()

    assert tokens("cpu:0,cpu:1", mode, (with_torch,)) == tokens("cpu:0", "none", ())
