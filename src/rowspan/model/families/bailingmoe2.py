"""Ling 2.0 and Ring: q, k and v in one tensor, norms of queries and keys; first dense layers, then mixtures chosen in
groups, with shared experts. https://huggingface.co/inclusionAI/Ling-mini-2.0
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LAYER_TENSORS,
    Family,
    attention,
    fused_qkv,
    gating,
    mlp,
    model,
    moe,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Gating, LayerSpec, MlpSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    dense_layers = header.optional_integer("leading_dense_block_count") or 0

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, qk_norm=QkNorm.HEAD)
        if index < dense_layers:
            return LayerSpec(mixer, mlp(header, index))
        width = header.integer("expert_feed_forward_length")
        shared = header.optional_integer("expert_shared_feed_forward_length") or width
        count = header.optional_integer("expert_shared_count") or 0
        mixture = moe(
            header,
            index,
            gating=gating(header, Gating.SIGMOID),
            normalize=header.flag("expert_weights_norm", False),
            has_selection_bias=header.has(Role.ROUTER_SELECTION, otherwise=True),
            shared=MlpSpec(shared * count) if count else None,
        )
        return LayerSpec(mixer, mixture)

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("bailingmoe2",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"bailing_moe_v2": ("bailingmoe2", {"scoring_func": "sigmoid"})},
    fused={"attn_qkv": fused_qkv},
)
