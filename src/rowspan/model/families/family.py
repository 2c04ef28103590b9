"""The type that describes a family of models: its architectures' names, how metadata become a `ModelSpec`, and its
tensors' names.

A family is a file in this folder with a `FAMILY`. The functions here read what most families have in common; a family's
file only says where it differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rowspan.checkpoint.tensor_names import Names, Role
from rowspan.errors import UnsupportedModelError
from rowspan.model.header import ModelHeader
from rowspan.model.spec import (
    AttentionSpec,
    Gating,
    LatentSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    MoeSpec,
    QkNorm,
    RopeSpec,
)

MODEL_TENSORS: Names = {
    "token_embd": Role.EMBEDDING,
    "output_norm": Role.FINAL_NORM,
    "output": Role.HEAD,
    "rope_freqs": Role.ROPE_FREQS,
}
LAYER_TENSORS: Names = {
    "attn_norm": Role.ATTN_NORM,
    "attn_q": Role.Q,
    "attn_k": Role.K,
    "attn_v": Role.V,
    "attn_q_norm": Role.Q_NORM,
    "attn_k_norm": Role.K_NORM,
    "attn_output": Role.O,
    "ffn_norm": Role.FFN_NORM,
    "ffn_gate": Role.GATE,
    "ffn_up": Role.UP,
    "ffn_down": Role.DOWN,
}
# Where a norm after attention is meant as the one before the MLP.
LATE_NORM_TENSORS: Names = {name: role for name, role in LAYER_TENSORS.items() if name != "ffn_norm"} | {
    "post_attention_norm": Role.FFN_NORM
}
POST_NORM_TENSORS: Names = {"post_attention_norm": Role.POST_ATTN_NORM, "post_ffw_norm": Role.POST_FFN_NORM}
EXPERT_TENSORS: Names = {
    "ffn_gate_inp": Role.ROUTER,
    "exp_probs_b.bias": Role.ROUTER_SELECTION,
    "ffn_gate_exps": Role.EXPERT_GATE,
    "ffn_up_exps": Role.EXPERT_UP,
    "ffn_down_exps": Role.EXPERT_DOWN,
    "ffn_gate_up_exps": Role.EXPERT_GATE_UP,
    "ffn_gate_shexp": Role.SHARED_GATE,
    "ffn_up_shexp": Role.SHARED_UP,
    "ffn_down_shexp": Role.SHARED_DOWN,
    "ffn_gate_inp_shexp": Role.SHARED_SCALE,
}
LATENT_TENSORS: Names = {
    "attn_q_a": Role.Q_A,
    "attn_q_a_norm": Role.Q_A_NORM,
    "attn_q_b": Role.Q_B,
    "attn_kv_a_mqa": Role.KV_A,
    "attn_kv_a_norm": Role.KV_A_NORM,
    "attn_kv_b": Role.KV_B,
    "attn_k_b": Role.K_B,
    "attn_v_b": Role.V_B,
}


Fused = Callable[[ModelHeader, int, int], Sequence[tuple[str, int]]]


@dataclass(frozen=True, eq=False)
class Family:
    """One family of models.

    architectures: values of GGUF's `general.architecture`.
    spec: makes a `ModelSpec` from a header.
    layer_tensors, model_tensors: names of the tensors in and outside the layers.
    hf_types: for each `model_type` of a Hugging Face config.json, the architecture, and defaults for keys that the
        configuration may lack.
    fused: tensors of a layer that hold several, one below the other: for each its name, and a function that returns,
        for a header, a layer and the number of rows, the names and rows of those that it holds.
    has_known_mixes: llama-quantize mixes schemes for this family by the rules that `rowspan.plan.rigs.quantize`
    follows.
    """

    architectures: tuple[str, ...]
    spec: Callable[[ModelHeader], ModelSpec]
    layer_tensors: Names = field(default_factory=lambda: LAYER_TENSORS)
    model_tensors: Names = field(default_factory=lambda: MODEL_TENSORS)
    hf_types: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    fused: Mapping[str, Fused] = field(default_factory=dict)
    has_known_mixes: bool = False


def fused_qkv(header: ModelHeader, layer: int, rows: int) -> Sequence[tuple[str, int]]:
    """Queries, keys and values in one tensor."""
    n_heads = header.in_layer("attention.head_count", layer)
    n_kv_heads = header.in_layer("attention.head_count_kv", layer, n_heads)
    size = header.integer("attention.key_length", header.integer("embedding_length") // max(1, n_heads))
    return ("attn_q", n_heads * size), ("attn_k", n_kv_heads * size), ("attn_v", n_kv_heads * size)


def fused_gate_up(header: ModelHeader, layer: int, rows: int) -> Sequence[tuple[str, int]]:
    """Gate and up in one tensor."""
    return ("ffn_gate", rows // 2), ("ffn_up", rows - rows // 2)


def model(header: ModelHeader, layers: tuple[LayerSpec, ...], **differences: Any) -> ModelSpec:
    """A model with these layers. differences: fields of `ModelSpec` that differ from what most families have."""
    read: dict[str, Any] = {
        "architecture": header.architecture,
        "name": header.name,
        "hidden_size": header.integer("embedding_length"),
        "vocab_size": header.vocab_size,
        "context_length": header.integer("context_length", 0 if header.for_planning else None),
        "layers": layers,
        "tied_embeddings": header.tied,
    } | differences
    if "norm_eps" not in read:
        read["norm_eps"] = header.number("attention.layer_norm_rms_epsilon", 1e-5 if header.for_planning else None)
    return ModelSpec(**read)


def check_encoder(header: ModelHeader) -> None:
    """Raise CheckpointError if a file says that an encoder's tokens do not see those after them."""
    if header.flag("attention.causal", False):
        raise header.contradiction("an encoder's attention is causal")


def attention(header: ModelHeader, layer: int, *, interleaved_rope: bool, **differences: Any) -> AttentionSpec:
    """Attention as most families have it, with biases and with norms of q and k if the file has them."""
    n_heads = header.in_layer("attention.head_count", layer)
    n_kv_heads = header.in_layer("attention.head_count_kv", layer, n_heads)
    key_size = header.integer("attention.key_length", header.integer("embedding_length") // max(1, n_heads))
    value_size = header.integer("attention.value_length", key_size)
    if not n_heads or not n_kv_heads or n_heads % n_kv_heads:
        raise header.contradiction(f"{n_heads} heads cannot share {n_kv_heads} KV heads evenly")
    if value_size != key_size and "value_size" not in differences:
        raise header.contradiction(f"key length {key_size} differs from value length {value_size}")
    read: dict[str, Any] = {
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "key_size": key_size,
        "value_size": value_size,
        "qk_norm": QkNorm.HEAD if header.has(Role.Q_NORM) else QkNorm.NONE,
        "has_qkv_bias": header.has(Role.Q, "bias"),
        "has_output_bias": header.has(Role.O, "bias"),
    } | differences
    if "rope" not in read:
        read["rope"] = rope(header, read["key_size"], interleaved=interleaved_rope)
    return AttentionSpec(**read)


def latent_attention(header: ModelHeader) -> AttentionSpec:
    """Latent attention. `key_length` and `value_length` are the sizes of what is cached; a head's own sizes are under
    other keys or, in old files, under these.
    """
    n_heads = header.integer("attention.head_count")
    rope_size = header.integer("rope.dimension_count")
    is_new = header.get("attention.key_length_mla") is not None
    key_size = header.integer("attention.key_length_mla" if is_new else "attention.key_length")
    multiplier = header.number("rope.scaling.yarn_log_multiplier", 0.0)
    factor = math.log(header.number("rope.scaling.factor", 1.0)) if multiplier else 0.0
    latent = LatentSpec(
        kv_rank=header.integer("attention.kv_lora_rank"),
        rope_size=rope_size,
        q_rank=header.optional_integer("attention.q_lora_rank") or 0,
        has_joined_kv_b=header.has(Role.KV_B),
    )
    return AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=1,
        key_size=key_size,
        value_size=header.integer("attention.value_length_mla" if is_new else "attention.value_length", key_size),
        # With the multiplier, YaRN's factor goes to the scores, and none to cosines and sines.
        rope=rope(
            header, rope_size, interleaved=True, **({"yarn_attn_factor": 1 / (1 + 0.1 * factor)} if multiplier else {})
        ),
        scale=(1 + multiplier * factor) ** 2 / math.sqrt(key_size) if multiplier else None,
        latent=latent,
    )


def windowed(header: ModelHeader, *, every: int) -> tuple[bool, ...]:
    """For each layer, whether it has a sliding window, by `attention.sliding_window_pattern`: booleans, or n, in which
    case every n-th layer has none. every: n if the key is absent.
    """
    flags = header.flags("attention.sliding_window_pattern")
    if flags is not None:
        return flags
    n = header.integer("attention.sliding_window_pattern", every)
    return tuple(index % n != n - 1 for index in range(header.n_layers))


def mlp(header: ModelHeader, layer: int, **differences: Any) -> MlpSpec:
    """A dense MLP, with biases if the file has them."""
    width = header.in_layer("feed_forward_length", layer)
    return MlpSpec(**({"width": width, "has_bias": header.has(Role.DOWN, "bias")} | differences))


def moe(header: ModelHeader, layer: int, **differences: Any) -> MoeSpec:
    """A mixture of experts, by the keys that most families use, with a shared expert if keys or tensors name one."""
    width = header.optional_integer("expert_feed_forward_length") or header.in_layer("feed_forward_length", layer)
    shared = header.optional_integer("expert_shared_feed_forward_length")
    shared = shared or (header.optional_integer("expert_shared_count") or 0) * width
    read: dict[str, Any] = {
        "expert": MlpSpec(width),
        "experts": header.integer("expert_count"),
        "used": header.in_layer("expert_used_count", layer),
        "normalize": header.flag("expert_weights_norm", True),
        "scale": header.number("expert_weights_scale", 1.0) or 1.0,
        "n_groups": header.optional_integer("expert_group_count") or 1,
        "groups_used": header.optional_integer("expert_group_used_count") or 1,
        "has_selection_bias": header.has(Role.ROUTER_SELECTION),
        "has_joined_gate_up": header.has(Role.EXPERT_GATE_UP),
        "shared": MlpSpec(shared) if shared else None,
    } | differences
    if not 0 < read["used"] <= read["experts"]:
        raise header.contradiction(f"{read['used']} of {read['experts']} experts are to be used")
    return MoeSpec(**read)


GATINGS = {1: Gating.SOFTMAX, 2: Gating.SIGMOID, 3: Gating.SOFTMAX_CHOSEN, 4: Gating.SQRT_SOFTPLUS}


def gating(header: ModelHeader, default: Gating = Gating.SOFTMAX) -> Gating:
    """How the router's logits become weights, by `expert_gating_func`."""
    number = header.optional_integer("expert_gating_func")
    if number is None:
        return default
    if number not in GATINGS:
        raise UnsupportedModelError(
            f"{header.name} chooses its experts by a function of the unknown number {number}.",
            why=f"Rowspan knows {', '.join(f'{key} ({one})' for key, one in GATINGS.items())}.",
            fix="Use --backend llamacpp, or a newer Rowspan.",
        )
    return GATINGS[number]


def rope(header: ModelHeader, head_size: int, *, interleaved: bool, **differences: Any) -> RopeSpec:
    """A rotary position embedding, by the keys that most families use.

    Raises:
        UnsupportedModelError: the scaling is unknown.
        CheckpointError: keys contradict each other.
    """
    scaling = header.text("rope.scaling.type", "none")
    factor = header.number("rope.scaling.factor", header.number("rope.scale_linear", 1.0))
    if scaling == "none" and factor != 1.0 and header.get("rope.scaling.type") is None:
        scaling = "linear"  # files from before rope.scaling.type existed
    scaling = "none" if scaling == "longrope" else scaling  # its factors are tensors
    if scaling not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(
            f"RoPE scaling {scaling!r} is not supported.",
            why="Rowspan knows none, linear, yarn, and Llama-3 scaling through rope_freqs.",
            fix="Choose another conversion of this model.",
        )
    if scaling != "none" and factor <= 0:
        raise header.contradiction(f"the RoPE scaling factor is {factor}")
    dim = differences.get("dim") or header.integer("rope.dimension_count", head_size)
    if dim % 2 or dim > head_size:
        raise header.contradiction(f"rope dimension {dim} does not fit a head of {head_size}")
    read: dict[str, Any] = {
        "dim": dim,
        "base": header.number("rope.freq_base", 10000.0),
        "scaling": scaling,
        "factor": factor,
        "original_context": header.optional_integer("rope.scaling.original_context_length")
        or header.integer("context_length", 0),
        "yarn_ext_factor": header.number("rope.scaling.yarn_ext_factor", 1.0),
        "yarn_attn_factor": header.number(
            "rope.scaling.attn_factor", header.number("rope.scaling.yarn_attn_factor", 1.0)
        ),
        "yarn_beta_fast": header.number("rope.scaling.yarn_beta_fast", 32.0),
        "yarn_beta_slow": header.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    return RopeSpec(interleaved=interleaved, **(read | differences))
