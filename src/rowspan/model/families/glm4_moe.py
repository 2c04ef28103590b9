"""GLM-4.5 to 4.7: biases of q, k and v, half a head rotated; first dense layers, then mixtures with a shared expert.

https://arxiv.org/abs/2508.06471
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LATE_NORM_TENSORS,
    Family,
    attention,
    gating,
    mlp,
    model,
    moe,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Gating, LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    dense_layers = header.optional_integer("leading_dense_block_count") or 0

    def layer(index: int) -> LayerSpec:
        has_bias = header.has(Role.Q, "bias", otherwise=True)
        mixer = attention(header, index, interleaved_rope=False, has_qkv_bias=has_bias)
        if index < dense_layers:
            return LayerSpec(mixer, mlp(header, index))
        has_selection_bias = header.has(Role.ROUTER_SELECTION, otherwise=True)
        mixture = moe(
            header,
            index,
            gating=gating(header, Gating.SIGMOID),
            normalize=header.flag("expert_weights_norm", False),
            has_selection_bias=has_selection_bias,
        )
        return LayerSpec(mixer, mixture)

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("glm4moe",),
    spec=spec,
    layer_tensors=LATE_NORM_TENSORS | EXPERT_TENSORS,
    hf_types={"glm4_moe": ("glm4moe", {"scoring_func": "sigmoid"})},
)
