"""Families against a decoder in plain NumPy: one of our own, added in one file, and those that Rowspan has."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kit import made_up_families, numpy_model
from kit.command_line import run_here
from kit.family_model import FamilyModel
from kit.single_rank import SingleRank
from kit.thread_workers import results

from rowspan.checkpoint.tensor_names import Role
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.kernels.isa import available_isas
from rowspan.model import families
from rowspan.model.families import registry
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams

QKV_BIAS = ((Role.Q, "bias"), (Role.K, "bias"), (Role.V, "bias"))
MLP_BIAS = ((Role.GATE, "bias"), (Role.UP, "bias"), (Role.DOWN, "bias"))
MADE_UP = FamilyModel("made-up", {"attention.sliding_window": 9, "attention.key_length": 16, "block_count": 6})
MODELS = {
    "made-up": MADE_UP,
    "made-up, untied": FamilyModel("made-up", {"attention.sliding_window": 40, "attention.key_length": 32}, tied=False),
    "llama with all biases": FamilyModel("llama", also=(*QKV_BIAS, (Role.O, "bias"), *MLP_BIAS)),
    "qwen3": FamilyModel("qwen3", {"attention.key_length": 32}),
    "gemma2": FamilyModel("gemma2", {"attention.sliding_window": 9, "attention.key_length": 32}),
    "gemma3": FamilyModel("gemma3", {"attention.sliding_window": 9, "attention.key_length": 32, "block_count": 7}),
    "qwen3moe": FamilyModel("qwen3moe", {"expert_count": 7, "expert_used_count": 3, "expert_feed_forward_length": 40}),
    "bailingmoe2": FamilyModel(
        "bailingmoe2",
        {
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_feed_forward_length": 40,
            "expert_shared_count": 2,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "expert_weights_norm": True,
            "leading_dense_block_count": 1,
            "expert_weights_scale": 2.5,
            "rope.dimension_count": 8,
        },
        tied=False,
    ),
    "mixtral": FamilyModel("llama", {"expert_count": 5, "expert_used_count": 2}),
    "smollm3": FamilyModel("smollm3", {"block_count": 5}),
}


@pytest.fixture(autouse=True)
def made_up() -> Iterator[None]:
    """The folder of families has one more file."""
    families.__path__.extend(made_up_families.__path__)
    registry.all_families.cache_clear()
    yield
    families.__path__.remove(*made_up_families.__path__)
    registry.all_families.cache_clear()


def prompt(model: FamilyModel, length: int) -> tuple[int, ...]:
    return tuple(random.Random(length).choices(range(model.spec.vocab_size), k=length))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_numpy_s(name: str, isa: str, tmp_path: Path) -> None:
    model = MODELS[name]
    tokens = prompt(model, 70)
    expected = numpy_model.logits(model.spec, model.weights, tokens)
    assert expected.std() > 0.5, "the model is too flat to tell anything"
    found = SingleRank(model.write(tmp_path / "m.gguf"), isa=isa).logits(tokens)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-4, rtol=2e-4)


@pytest.mark.parametrize("isa", [None, "torch"])
@pytest.mark.parametrize(
    ("devices", "mode", "ratios"),
    [
        ("cpu:0", SplitMode.NONE, None),
        ("cpu:0,cpu:1", SplitMode.ROW, None),
        ("cpu:0,cpu:1,cpu:2", SplitMode.ROW, (1.0, 1.0, 3.0)),  # one without heads
        ("cpu:0,cpu:1", SplitMode.LAYER, None),
    ],
)
@pytest.mark.parametrize("name", ["made-up", "gemma3", "qwen3moe"])
def test_splits_go_on_as_numpy_does(
    name: str, devices: str, mode: SplitMode, ratios: tuple[float, ...] | None, isa: str | None, tmp_path: Path
) -> None:
    model = MODELS[name]
    path = model.write(tmp_path / "m.gguf")
    blueprint = make_blueprint(
        EngineConfig(path, parse_devices(devices), mode, ratios, context_size=128, cpu_isa=isa, dtype="float32")
    )
    tokens = list(prompt(model, 50))
    params = SamplingParams(temperature=0, logprobs=3, seed=1)
    layout = blueprint.cache_layout

    def chunk(start: int, stop: int, samples: int) -> Chunk:
        tables = list(range(layout.blocks_for(stop))) * len(layout.groups)
        return Chunk(0, tuple(tokens[start:stop]), start, tables, samples)

    plans = [
        StepPlan(0, (chunk(0, 32, 0),), (NewSequence(0, tuple(tokens), 50, params),)),
        StepPlan(1, (chunk(32, 50, 1),)),
    ]
    for number in range(2, 8):  # the tokens that NumPy chooses
        tokens.append(int(numpy_model.logits(model.spec, model.weights, tokens)[-1].argmax()))
        plans.append(StepPlan(number, (chunk(len(tokens) - 1, len(tokens), 1),)))
    found = [result.sampled[0] for result in results(blueprint, plans) if result.sampled]
    assert [token.token for token in found[:-1]] == tokens[50:]
    scores = numpy_model.logits(model.spec, model.weights, tokens)[49:]
    best = scores.max(axis=1) - np.log(np.exp(scores).sum(axis=1))
    np.testing.assert_allclose(np.array([token.logprob for token in found], np.float64), best, atol=1e-3)


@pytest.mark.parametrize("mode", ["layer", "row"])
def test_a_family_of_one_s_own_is_planned(mode: str, tmp_path: Path) -> None:
    path = str(MADE_UP.write(tmp_path / "m.gguf"))
    planned = run_here("plan", path, "--devices", "cpu:0,cpu:1", "-sm", mode)
    assert planned.returncode == 0
    assert "4 query heads of 32 that see all tokens" in planned.stdout
    cards = run_here("plan", path, "--gpus", "2xRTX 4090", "-sm", mode, "--json")
    assert cards.returncode == 0
    assert "made-up" in json.dumps(json.loads(cards.stdout))
