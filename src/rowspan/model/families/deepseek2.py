"""DeepSeek V2, V3 and R1, and models built like them: latent attention; mixtures with shared experts."""

from __future__ import annotations

from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LATENT_TENSORS,
    LAYER_TENSORS,
    Family,
    gating,
    latent_attention,
    mlp,
    model,
    moe,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Gating, LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    mixer = latent_attention(header)
    # Without the key, only GLM-4.7-Flash, known by its vocabulary, has sigmoids.
    how = gating(header, Gating.SIGMOID if header.vocab_size == 154880 else Gating.SOFTMAX)
    normalize = header.flag("expert_weights_norm", False)
    dense_layers = header.optional_integer("leading_dense_block_count") or 0

    def layer(index: int) -> LayerSpec:
        dense = index < dense_layers
        return LayerSpec(mixer, mlp(header, index) if dense else moe(header, index, gating=how, normalize=normalize))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("deepseek2",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS | LATENT_TENSORS,
    hf_types={"deepseek_v2": ("deepseek2", {}), "deepseek_v3": ("deepseek2", {"scoring_func": "sigmoid"})},
)
