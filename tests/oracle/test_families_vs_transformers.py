"""Each family's answers are those of transformers' implementation, on small random models: windows are shorter than the
prompt, numbers of experts odd; and splits answer alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from kit.family_model import FamilyModel
from kit.family_reference import POST_NORMS, Reference, experts, log_probabilities
from kit.gguf_builder import vector
from kit.gguf_bytes import RawTensor, gguf_bytes
from kit.native_isas import NATIVE
from kit.single_rank import SingleRank
from kit.thread_workers import results

from rowspan.checkpoint.tensor_names import Role
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.errors import UnsupportedModelError
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams

Get = Callable[..., Any]
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}
YARN_HF = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
PLAIN_HF = {"rope_type": "default", "rope_theta": 10000.0}
EXPERTS = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 48}
SHARED_HF = {
    "moe_intermediate_size": 48,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}


def swapped(get: Get) -> dict[str, Any]:
    """gpt-oss: inputs first, rows of gate and up taking turns."""
    gate_up = np.stack([get(Role.EXPERT_GATE), get(Role.EXPERT_UP)], axis=2)
    biases = np.stack([get(Role.EXPERT_GATE, "bias"), get(Role.EXPERT_UP, "bias")], axis=2)
    return {
        "mlp.experts.gate_up_proj": gate_up.reshape(gate_up.shape[0], -1, gate_up.shape[-1]).swapaxes(1, 2),
        "mlp.experts.gate_up_proj_bias": biases.reshape(len(biases), -1),
        "mlp.experts.down_proj": get(Role.EXPERT_DOWN).swapaxes(1, 2),
        "mlp.experts.down_proj_bias": get(Role.EXPERT_DOWN, "bias"),
    }


def fused(get: Get) -> dict[str, Any]:
    return {
        "self_attn.qkv_proj.weight": np.concatenate([get(Role.Q), get(Role.K), get(Role.V)]),
        "mlp.gate_up_proj.weight": np.concatenate([get(Role.GATE), get(Role.UP)]),
    }


def granite_experts(get: Get) -> dict[str, Any]:
    return experts(get, "block_sparse_moe.experts") | {
        "shared_mlp.input_linear.weight": np.concatenate([get(Role.SHARED_GATE), get(Role.SHARED_UP)]),
        "shared_mlp.output_linear.weight": get(Role.SHARED_DOWN),
    }


GEMMA4 = {
    "block_count": 6,
    "attention.sliding_window": 9,
    "attention.key_length": 32,
    "attention.key_length_swa": 16,
    "attention.head_count_kv": np.array([2, 2, 2, 2, 2, 1], np.int32),
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 10000.0,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "final_logit_softcapping": 3.0,
}
GEMMA4_HF = {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 9,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "final_logit_softcapping": 3.0,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
}
QUARTER = (1.0,) * 4 + (1e30,) * 12  # what is not rotated
GEMMA4_NAMES = {
    Role.ATTN_NORM: "input_layernorm",
    Role.POST_ATTN_NORM: "post_attention_layernorm",
    Role.FFN_NORM: "pre_feedforward_layernorm",
    Role.POST_FFN_NORM: "post_feedforward_layernorm",
    Role.ROUTER: "router.proj",
    Role.SHARED_GATE: "mlp.gate_proj",
    Role.SHARED_UP: "mlp.up_proj",
    Role.SHARED_DOWN: "mlp.down_proj",
    Role.PRE_EXPERTS_NORM: "pre_feedforward_layernorm_2",
    Role.POST_EXPERTS_NORM: "post_feedforward_layernorm_2",
    Role.POST_SHARED_NORM: "post_feedforward_layernorm_1",
}


def gemma4_experts(get: Get) -> dict[str, Any]:
    return {
        "experts.gate_up_proj": get(Role.EXPERT_GATE_UP),
        "experts.down_proj": get(Role.EXPERT_DOWN),
        "router.scale": get(Role.ROUTER_NORM),
        "router.per_expert_scale": get(Role.EXPERT_SCALES),
        "layer_scalar": get(Role.OUTPUT_SCALE),
    }


DEEPSEEK = {
    "block_count": 2,
    "leading_dense_block_count": 1,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 48,
    "expert_shared_count": 1,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 1.5,
    "attention.head_count": 5,
    "attention.head_count_kv": 1,
    "rope.dimension_count": 16,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 40,
    "attention.value_length_mla": 32,
}
DEEPSEEK_HF = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 5,
    "rope_interleave": True,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 32,
    "head_dim": 16,
    "rope_parameters": PLAIN_HF,
}
SELECTION_BIAS = ((Role.ROUTER_SELECTION, "weight"),)
DEEPSEEK_NAMES = {
    Role.Q_A: "self_attn.q_a_proj",
    Role.Q_A_NORM: "self_attn.q_a_layernorm",
    Role.Q_B: "self_attn.q_b_proj",
    Role.KV_A: "self_attn.kv_a_proj_with_mqa",
    Role.KV_A_NORM: "self_attn.kv_a_layernorm",
}


def joined_kv_b(get: Get) -> dict[str, Any]:
    """Of each head the projection to keys, from the latent, and below it that to values."""
    parts = np.concatenate([get(Role.K_B).swapaxes(1, 2), get(Role.V_B)], axis=1)
    return {"self_attn.kv_b_proj.weight": parts.reshape(-1, parts.shape[-1])}


NOT_SHARED = {Role.SHARED_GATE: "", Role.SHARED_UP: "", Role.SHARED_DOWN: ""}
GRANITE = {"embedding_scale": 6.0, "residual_scale": 0.4, "logit_scale": 3.0, "attention.scale": 0.2}
GRANITE_HF = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 3.0,
    "attention_multiplier": 0.2,
    "rope_parameters": PLAIN_HF,
}
SQUARE = {"attention.key_length": 16}
CASES: dict[str, tuple[FamilyModel, Reference]] = {
    "gpt-oss": (
        FamilyModel(
            "gpt-oss", {**EXPERTS, **YARN, "attention.sliding_window": 9, "attention.key_length": 32}, tied=False
        ),
        Reference(
            "GptOss",
            {
                "intermediate_size": 48,
                "num_local_experts": 5,
                "num_experts_per_tok": 2,
                "sliding_window": 9,
                "rope_parameters": YARN_HF | {"truncate": True},
            },
            {Role.ROUTER: "mlp.router", Role.SINKS: "self_attn.sinks"},
            more=swapped,
        ),
    ),
    "glm4moe": (
        FamilyModel(
            "glm4moe",
            {
                **EXPERTS,
                "leading_dense_block_count": 1,
                "expert_shared_count": 1,
                "rope.dimension_count": 8,
                "attention.key_length": 16,
                "expert_weights_norm": True,
                "expert_weights_scale": 1.5,
                "expert_gating_func": 2,
            },
        ),
        Reference(
            "Glm4Moe",
            {
                **SHARED_HF,
                "n_shared_experts": 1,
                "first_k_dense_replace": 1,
                "norm_topk_prob": True,
                "routed_scaling_factor": 1.5,
                "attention_bias": True,
                "rope_parameters": PLAIN_HF | {"partial_rotary_factor": 0.5},
            },
        ),
    ),
    "seed_oss": (
        FamilyModel("seed_oss", {"attention.key_length": 32}),
        Reference("SeedOss", {"attention_bias": True, "attention_out_bias": False, "rope_parameters": PLAIN_HF}),
    ),
    "gemma4": (
        FamilyModel("gemma4", GEMMA4, factors=QUARTER),
        Reference(
            "Gemma4Text",
            GEMMA4_HF,
            GEMMA4_NAMES,
            more=lambda get: {"layer_scalar": get(Role.OUTPUT_SCALE)},
            model="Gemma4ForCausalLM",
        ),
    ),
    "gemma4 with experts": (
        FamilyModel("gemma4", {**GEMMA4, **EXPERTS}, factors=QUARTER),
        Reference(
            "Gemma4Text",
            {
                **GEMMA4_HF,
                "enable_moe_block": True,
                "num_experts": 5,
                "top_k_experts": 2,
                "moe_intermediate_size": 48,
            },
            GEMMA4_NAMES,
            more=gemma4_experts,
            model="Gemma4ForCausalLM",
        ),
    ),
    "deepseek2": (
        FamilyModel("deepseek2", {**DEEPSEEK, "attention.q_lora_rank": 48}, also=SELECTION_BIAS, tied=False),
        Reference("DeepseekV3", {**DEEPSEEK_HF, "q_lora_rank": 48}, DEEPSEEK_NAMES, more=joined_kv_b),
    ),
    "deepseek2 with YaRN": (
        FamilyModel(
            "deepseek2",
            {**DEEPSEEK, **YARN, "rope.scaling.yarn_log_multiplier": 0.0707},
            also=SELECTION_BIAS,
            tied=False,
        ),
        Reference(
            "DeepseekV3",
            {
                **DEEPSEEK_HF,
                "q_lora_rank": None,
                "rope_parameters": YARN_HF | {"mscale": 0.707, "mscale_all_dim": 0.707},
            },
            DEEPSEEK_NAMES,
            more=joined_kv_b,
        ),
    ),
    "granite": (FamilyModel("granite", GRANITE), Reference("Granite", GRANITE_HF, permuted=True)),
    "granitemoe": (
        FamilyModel(
            "granitemoe",
            {**GRANITE, "expert_count": 5, "expert_used_count": 2, "expert_shared_feed_forward_length": 32},
        ),
        Reference(
            "GraniteMoeShared",
            {**GRANITE_HF, "num_local_experts": 5, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
            {Role.ROUTER: "block_sparse_moe.router", **NOT_SHARED},
            permuted=True,
            more=granite_experts,
        ),
    ),
    "olmo2": (
        FamilyModel("olmo2", SQUARE, tied=False),
        Reference("Olmo2", {"rope_parameters": PLAIN_HF}, POST_NORMS),
    ),
    "exaone4": (
        FamilyModel("exaone4", {"attention.sliding_window": 9, "block_count": 4}),
        Reference(
            "Exaone4",
            {"sliding_window": 9, "sliding_window_pattern": 4, "rope_parameters": PLAIN_HF},
            POST_NORMS,
        ),
    ),
    "minimax-m2": (
        FamilyModel(
            "minimax-m2",
            {**EXPERTS, "feed_forward_length": 48, "rope.dimension_count": 8, "attention.key_length": 16},
            tied=False,
        ),
        Reference(
            "MiniMaxM2",
            {
                "num_local_experts": 5,
                "num_experts_per_tok": 2,
                "rope_parameters": PLAIN_HF | {"partial_rotary_factor": 0.5},
            },
            {Role.ROUTER_SELECTION: "mlp.e_score_correction_bias"},
        ),
    ),
    "ernie4_5": (FamilyModel("ernie4_5"), Reference("Ernie4_5", {"rope_parameters": PLAIN_HF, "use_bias": False})),
    "ernie4_5-moe": (
        FamilyModel(
            "ernie4_5-moe",
            {
                **EXPERTS,
                "block_count": 5,
                "leading_dense_block_count": 1,
                "interleave_moe_layer_step": 2,
                "expert_shared_feed_forward_length": 48,
            },
        ),
        Reference(
            "Ernie4_5_Moe",
            {
                "moe_num_experts": 5,
                "moe_k": 2,
                "moe_intermediate_size": 48,
                "moe_num_shared_experts": 1,
                "moe_layer_start_index": 1,
                "moe_layer_interval": 2,
                "rope_parameters": PLAIN_HF,
                "use_bias": False,
            },
            {Role.ROUTER_SELECTION: "mlp.gate.moe_statics.e_score_correction_bias"},
        ),
    ),
    "phi3": (
        FamilyModel("phi3", {"rope.dimension_count": 8, "attention.key_length": 16}, tied=False),
        Reference(
            "Phi3",
            {"rope_parameters": PLAIN_HF | {"partial_rotary_factor": 0.5}},
            {Role.Q: "", Role.K: "", Role.V: "", Role.GATE: "", Role.UP: ""},
            more=fused,
        ),
    ),
    "command-r": (
        FamilyModel("command-r", {"logit_scale": 0.5, "attention.layer_norm_epsilon": 1e-5}),
        Reference("Cohere", {"logit_scale": 0.5, "layer_norm_eps": 1e-5, "rope_parameters": PLAIN_HF}),
    ),
    "cohere2": (
        FamilyModel(
            "cohere2",
            {
                "logit_scale": 0.5,
                "attention.layer_norm_epsilon": 1e-5,
                "attention.sliding_window": 9,
                "block_count": 4,
                "attention.key_length": 32,
            },
        ),
        Reference(
            "Cohere2",
            {"logit_scale": 0.5, "layer_norm_eps": 1e-5, "sliding_window": 9, "rope_parameters": PLAIN_HF},
        ),
    ),
    "mistral3": (
        FamilyModel(
            "mistral3",
            {
                **YARN,
                "rope.scaling.yarn_log_multiplier": 1.0,
                "attention.temperature_scale": 0.3,
                "attention.key_length": 32,
                "rope.scaling.yarn_beta_fast": 16.0,
            },
        ),
        Reference(
            "Ministral3",
            {
                "sliding_window": None,
                "rope_parameters": YARN_HF
                | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3, "beta_fast": 16.0},
            },
            permuted=True,
        ),
    ),
    "dots1": (
        FamilyModel(
            "dots1",
            {**EXPERTS, "leading_dense_block_count": 1, "expert_shared_count": 2, "expert_weights_scale": 2.5},
        ),
        Reference(
            "Dots1",
            {
                **SHARED_HF,
                "n_shared_experts": 2,
                "first_k_dense_replace": 1,
                "norm_topk_prob": False,
                "routed_scaling_factor": 2.5,
                "rope_parameters": PLAIN_HF,
            },
        ),
    ),
    "qwen2moe": (
        FamilyModel("qwen2moe", {**EXPERTS, "expert_shared_feed_forward_length": 40}),
        Reference(
            "Qwen2Moe",
            {
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 48,
                "shared_expert_intermediate_size": 40,
                "norm_topk_prob": False,
                "rope_parameters": PLAIN_HF,
            },
            {
                Role.SHARED_GATE: "mlp.shared_expert.gate_proj",
                Role.SHARED_UP: "mlp.shared_expert.up_proj",
                Role.SHARED_DOWN: "mlp.shared_expert.down_proj",
            },
            more=lambda get: {"mlp.shared_expert_gate.weight": get(Role.SHARED_SCALE)[None]},
        ),
    ),
    "qwen3moe": (
        FamilyModel("qwen3moe", {**EXPERTS, "attention.key_length": 32}),
        Reference(
            "Qwen3Moe",
            {
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 48,
                "norm_topk_prob": True,
                "rope_parameters": PLAIN_HF,
            },
        ),
    ),
    "mixtral": (
        FamilyModel("llama", {"expert_count": 5, "expert_used_count": 2}),
        Reference(
            "Mixtral",
            {"num_local_experts": 5, "num_experts_per_tok": 2, "rope_parameters": PLAIN_HF},
            permuted=True,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_are_transformers(name: str, tmp_path: Path) -> None:
    model, reference = CASES[name]
    tokens = tuple(random.Random(name).choices(range(model.spec.vocab_size), k=70))
    expected = log_probabilities(model, reference, tokens)
    assert expected.std() > 0.5, "the model is too flat to tell anything"
    path = model.write(tmp_path / "m.gguf")
    for isa in ("torch", *NATIVE[:1]):
        found = SingleRank(path, isa=isa).logits(tokens).log_softmax(-1).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=isa)


@pytest.mark.parametrize("name", ["attn_k_b", "attn_v_b"])
def test_heads_of_latent_attention_with_scales_are_refused(tmp_path: Path, name: str) -> None:
    """Queries and results are multiplied by them as they are."""
    model = FamilyModel("deepseek2", DEEPSEEK)
    read_spec(open_checkpoint(model.write(tmp_path / "m.gguf")))
    file = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = [
        RawTensor(tensor.name, tuple(tensor.shape.tolist())[::-1], tensor.tensor_type, tensor.data.tobytes())
        for tensor in file.tensors
    ]
    for count in (1, 4):
        scaled = gguf_bytes(model.metadata, [*tensors, vector(f"blk.1.{name}.scale", np.full(count, 0.5))])
        (tmp_path / "scaled.gguf").write_bytes(scaled)
        with pytest.raises(UnsupportedModelError, match=rf"{name.removeprefix('attn_')} scale of layer 1"):
            read_spec(open_checkpoint(tmp_path / "scaled.gguf"))


@pytest.mark.parametrize(
    ("devices", "mode", "ratios"),
    [
        ("cpu:0,cpu:1,cpu:2", SplitMode.ROW, (1.0, 1.0, 3.0)),  # some without a part of something
        ("cpu:0,cpu:1", SplitMode.LAYER, None),
    ],
)
@pytest.mark.parametrize("name", ["deepseek2", "gpt-oss", "gemma4 with experts", "cohere2", "granitemoe"])
def test_splits_answer_alike(
    name: str, devices: str, mode: SplitMode, ratios: tuple[float, ...] | None, tmp_path: Path
) -> None:
    model = CASES[name][0]
    path = model.write(tmp_path / "m.gguf")
    tokens = tuple(random.Random(name).choices(range(model.spec.vocab_size), k=50))
    expected = SingleRank(path).logits(tokens)[-1].log_softmax(-1)
    config = EngineConfig(path, parse_devices(devices), mode, ratios, context_size=128, dtype="float32")
    blueprint = make_blueprint(config)
    layout, params = blueprint.cache_layout, SamplingParams(temperature=0, logprobs=3, seed=1)

    def chunk(start: int, stop: int, samples: int) -> Chunk:
        tables = list(range(layout.blocks_for(stop))) * len(layout.groups)
        return Chunk(0, tokens[start:stop], start, tables, samples)

    first = StepPlan(0, (chunk(0, 32, 0),), (NewSequence(0, tokens, 50, params),))
    found = results(blueprint, [first, StepPlan(1, (chunk(32, 50, 1),))])[-1].sampled[0]
    assert found.token == int(expected.argmax())
    assert found.logprob == pytest.approx(float(expected.max()), abs=1e-3)
