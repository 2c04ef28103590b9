"""Dimensions of a model from a Hugging Face config.json.

Keys: https://huggingface.co/docs/transformers (the configuration page of each architecture).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rowspan.checkpoint.shape import GLOBAL_EVERY, Shape
from rowspan.errors import CheckpointError, UnsupportedModelError

# model_type → the architecture's name in GGUF files, and what it implies that no key says.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("llama", {}),
    "mixtral": ("llama", {}),
    "smollm3": ("smollm3", {}),
    "qwen2": ("qwen2", {"qkv_bias": True}),
    "qwen3": ("qwen3", {"qk_norm": True}),
    "qwen3_moe": ("qwen3moe", {"qk_norm": True}),
    "gemma2": ("gemma2", {"post_norms": True, "tied": True}),
    "gemma3_text": ("gemma3", {"post_norms": True, "qk_norm": True, "tied": True}),
    "deepseek_v2": ("deepseek2", {}),
    "deepseek_v3": ("deepseek2", {}),
}


def shape_from_config(text: str, name: str) -> Shape:
    """The shape that a config.json describes. name: what the model is to be called.

    Raises:
        CheckpointError: it is no JSON, or lacks a size.
        UnsupportedModelError: an architecture whose tensors are not known here.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _unusable(name, f"It is no JSON: {error}.") from None
    if not isinstance(config, dict):
        raise _unusable(name, "It is no JSON object.")
    if isinstance(config.get("text_config"), dict):  # a model that also sees: its language part is planned
        config = {**config["text_config"]}
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnsupportedModelError(
            f"{name} is of the type {str(kind)[:40]!r}, whose tensors Rowspan cannot list.",
            why=f"It knows {', '.join(FAMILIES)}.",
            fix="Give a GGUF file of the model, or its address: its header lists the tensors.",
        )
    architecture, implied = FAMILIES[kind]
    return _shape(_Sizes(config, name), architecture, implied, config)


class _Sizes:
    """Checked access to a configuration's numbers."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config = config
        self.name = name

    def __call__(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise _unusable(self.name, f"Its {key} is {'missing' if value is None else str(value)[:40]}.")
        return value


def _shape(size: _Sizes, architecture: str, implied: Mapping[str, Any], config: Mapping[str, Any]) -> Shape:
    hidden, heads = size("hidden_size"), size("num_attention_heads")
    if not heads:
        raise _unusable(architecture, "It has no attention heads.")
    experts = size("num_local_experts", size("num_experts", size("n_routed_experts", 0)))
    expert_ffn = size("moe_intermediate_size", size("intermediate_size")) if experts else 0
    shape = Shape(
        name=size.name,
        architecture=architecture,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", hidden // heads),
        ffn=size("intermediate_size"),
        vocab=size("vocab_size"),
        context=size("max_position_embeddings", 0),
        tied=bool(config.get("tie_word_embeddings", False)),
        experts=experts,
        experts_used=size("num_experts_per_tok", 0),
        expert_ffn=expert_ffn,
        shared_ffn=size("n_shared_experts", 0) * expert_ffn,
        dense_layers=size("first_k_dense_replace", 0),
    )
    shape = replace(shape, **implied)
    if architecture in GLOBAL_EVERY:
        every = size("sliding_window_pattern", GLOBAL_EVERY[architecture])
        shape = replace(shape, window=size("sliding_window", 0), global_every=every)
    if "kv_lora_rank" in config:
        rope_head = size("qk_rope_head_dim")
        shape = replace(
            shape,
            kv_heads=heads,
            head_dim=size("qk_nope_head_dim") + rope_head,
            q_rank=size("q_lora_rank", 0),
            kv_rank=size("kv_lora_rank"),
            rope_head=rope_head,
            value_head=size("v_head_dim"),
        )
    return shape


def _unusable(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The configuration of {name} is not enough to plan with.",
        why=why,
        fix="Give the config.json of a causal language model, or a GGUF file.",
    )
