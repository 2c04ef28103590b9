"""Gemma 4: Gemma 3's norms; heads of another size in layers without a window, which rotate a quarter of a head; values
without weights of a norm; each layer's output has a factor; experts beside a dense MLP, each with norms of its own.

https://ai.google.dev/gemma/docs/core
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rowspan.checkpoint.tensor_names import Role
from rowspan.errors import UnsupportedModelError
from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LAYER_TENSORS,
    POST_NORM_TENSORS,
    Family,
    Fused,
    attention,
    mlp,
    model,
    moe,
    rope,
    windowed,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Activation, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkNorm

OWN_TENSORS = {
    "ffn_gate_inp.scale": Role.ROUTER_NORM,
    "ffn_down_exps.scale": Role.EXPERT_SCALES,
    "pre_ffw_norm_2": Role.PRE_EXPERTS_NORM,
    "post_ffw_norm_1": Role.POST_SHARED_NORM,
    "post_ffw_norm_2": Role.POST_EXPERTS_NORM,
    "layer_output_scale": Role.OUTPUT_SCALE,
}


def spec(header: ModelHeader) -> ModelSpec:
    for key, what in (
        ("attention.shared_kv_layers", "layers that share others' keys and values"),
        ("embedding_length_per_layer_input", "embeddings for each layer"),
    ):
        if header.optional_integer(key) and not header.for_planning:
            raise UnsupportedModelError(
                f"{header.name} has {what}, which Rowspan's own engine cannot compute yet.",
                why="The small ones of Gemma 4 (E2B, E4B) have them; 12B, 26B-A4B and 31B do not.",
                fix="Use --backend llamacpp, or one of these models.",
            )
    hidden, has_window = header.integer("embedding_length"), windowed(header, every=6)
    window = header.integer("attention.sliding_window", 1024)
    size = header.integer("attention.key_length", hidden // max(header.per_layer("attention.head_count")))
    local_size = header.integer("attention.key_length_swa", size)
    full = rope(header, size, interleaved=False)
    local = rope(
        header,
        local_size,
        interleaved=False,
        dim=header.integer("rope.dimension_count_swa", local_size),
        base=header.number("rope.freq_base_swa", 10000.0),
        scaling="none",
        factor=1.0,
        has_factors=False,
    )

    def layer(index: int) -> LayerSpec:
        is_local = has_window[index]
        differences: dict[str, Any] = {
            "rope": local if is_local else full,
            "window": window if is_local else None,
            "key_size": local_size if is_local else size,
            "value_size": local_size if is_local else size,
            "scale": 1.0,
            "qk_norm": QkNorm.HEAD,
            "norms_values": True,
            "values_are_keys": not header.has_in_layer(Role.V, index, otherwise=is_local),
        }
        mixer = attention(header, index, interleaved_rope=False, **differences)
        has_scale = header.has(Role.OUTPUT_SCALE, otherwise=True)
        return LayerSpec(mixer, _mlp(header, index), post_norm=True, has_output_scale=has_scale)

    soft_cap = header.number("final_logit_softcapping", 0.0) or None
    layers = tuple(layer(index) for index in range(header.n_layers))
    return model(header, layers, embedding_scale=math.sqrt(hidden), final_soft_cap=soft_cap)


def _mlp(header: ModelHeader, layer: int) -> MlpSpec | MoeSpec:
    dense = mlp(header, layer, activation=Activation.GELU)
    if not header.optional_integer("expert_count"):
        return dense
    expert = MlpSpec(header.integer("expert_feed_forward_length"), Activation.GELU)
    return moe(
        header,
        layer,
        expert=expert,
        shared=dense,
        is_beside=True,
        has_expert_scales=header.has(Role.EXPERT_SCALES, otherwise=True),
        has_joined_gate_up=header.has(Role.EXPERT_GATE_UP, otherwise=True),
    )


def _shared_in_mixtures(name: str) -> Fused:
    """The dense MLP's matrix as it is, or in mixtures as that of the MLP shared by all tokens."""

    def parts(header: ModelHeader, layer: int, rows: int) -> Sequence[tuple[str, int]]:
        return ((f"{name}_shexp" if header.optional_integer("expert_count") else name, rows),)

    return parts


FAMILY = Family(
    architectures=("gemma4",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS | EXPERT_TENSORS | OWN_TENSORS,
    hf_types={"gemma4_text": ("gemma4", {"tie_word_embeddings": True})},
    fused={name: _shared_in_mixtures(name) for name in ("ffn_gate", "ffn_up", "ffn_down")},
)
