"""Translates a Hugging Face config.json into GGUF's keys.

Keys: https://huggingface.co/docs/transformers (the configuration page of each architecture).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rowspan.errors import CheckpointError, UnsupportedModelError
from rowspan.model.families.registry import hf_types
from rowspan.model.header import ModelHeader

# GGUF's key for each key of a configuration; if several stand for one, the first one present counts.
SIZES: tuple[tuple[str, str], ...] = (
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("num_local_experts", "expert_count"),
    ("num_experts", "expert_count"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("n_shared_experts", "expert_shared_count"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ("first_k_dense_replace", "leading_dense_block_count"),
    ("n_group", "expert_group_count"),
    ("topk_group", "expert_group_used_count"),
    ("sliding_window", "attention.sliding_window"),
    ("sliding_window_pattern", "attention.sliding_window_pattern"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("q_lora_rank", "attention.q_lora_rank"),
    ("qk_rope_head_dim", "rope.dimension_count"),
    ("v_head_dim", "attention.value_length_mla"),
)
NUMBERS: tuple[tuple[str, str], ...] = (
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
)
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
GATING = {"softmax": 1, "sigmoid": 2}


def header_of_config(text: str, name: str) -> ModelHeader:
    """The header of the model that a config.json describes, for planning. name: the model's name.

    Raises:
        CheckpointError: the text is no JSON, or lacks a size.
        UnsupportedModelError: no family has this architecture.
    """
    config = _configuration(text, name)
    kind, types = config.get("model_type"), hf_types()
    if not isinstance(kind, str) or kind not in types:
        raise UnsupportedModelError(
            f"{name} is of the type {str(kind)[:40]!r}, whose tensors Rowspan cannot list.",
            why=f"It knows {', '.join(types)}.",
            fix="Give a GGUF file of the model, or its address: its header lists the tensors.",
        )
    architecture, defaults = types[kind]
    config = {**defaults, **config}
    if config.get("use_sliding_window") is False:
        config.pop("sliding_window", None)
    metadata = {f"{architecture}.{key}": value for key, value in _values(config, name).items()}
    metadata["general.architecture"] = architecture
    return ModelHeader(
        metadata,
        vocab_size=_size(config, "vocab_size", name),
        tied=bool(config.get("tie_word_embeddings", False)),
        title=name,
        for_planning=True,
    )


def _configuration(text: str, name: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _unusable(name, f"It is no JSON: {error}.") from None
    if not isinstance(config, dict):
        raise _unusable(name, "It is no JSON object.")
    inner = config.get("text_config")  # of a model that also sees: its language part is planned
    return {**inner} if isinstance(inner, dict) else config


def _values(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration's values under GGUF's keys."""
    for key in REQUIRED:
        if not _size(config, key, name):
            raise _unusable(name, f"Its {key} is 0.")
    values: dict[str, Any] = {}
    for key, gguf_key in SIZES:
        if config.get(key) is not None:
            values.setdefault(gguf_key, _size(config, key, name))
    for key, gguf_key in NUMBERS:
        if isinstance(config.get(key), int | float):
            values[gguf_key] = float(config[key])
    if isinstance(config.get("norm_topk_prob"), bool):
        values["expert_weights_norm"] = config["norm_topk_prob"]
    if config.get("scoring_func") in GATING:
        values["expert_gating_func"] = GATING[config["scoring_func"]]
    if "kv_lora_rank" in config:
        heads = _size(config, "qk_nope_head_dim", name) + _size(config, "qk_rope_head_dim", name)
        values["attention.key_length_mla"] = heads
    return values


def _size(config: Mapping[str, Any], key: str, name: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise _unusable(name, f"Its {key} is {'missing' if value is None else str(value)[:40]}.")
    return value


def _unusable(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The configuration of {name} is not enough to plan with.",
        why=why,
        fix="Give the config.json of a causal language model, or a GGUF file.",
    )
