"""Phi-3 and Phi-4: q, k and v in one tensor, gate and up in another; frequencies divided by factors for long contexts.

https://arxiv.org/abs/2404.14219
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import (
    LAYER_TENSORS,
    MODEL_TENSORS,
    Family,
    attention,
    fused_gate_up,
    fused_qkv,
    mlp,
    model,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    """llama.cpp, whose answers users compare with, ignores `attention.sliding_window` here, and so does this."""

    def layer(index: int) -> LayerSpec:
        return LayerSpec(attention(header, index, interleaved_rope=False), mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("phi3",),
    spec=spec,
    layer_tensors=LAYER_TENSORS,
    model_tensors=MODEL_TENSORS
    | {"rope_factors_long": Role.ROPE_FACTORS_LONG, "rope_factors_short": Role.ROPE_FACTORS_SHORT},
    hf_types={"phi3": ("phi3", {})},
    fused={"attn_qkv": fused_qkv, "ffn_up": fused_gate_up},
)
