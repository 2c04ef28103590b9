"""ERNIE 4.5: dense, or with mixtures in some of the layers. https://yiyan.baidu.com/blog/publication/"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    has_experts = header.architecture == "ernie4_5-moe"
    dense_layers = header.optional_integer("leading_dense_block_count") or 0
    every = header.optional_integer("interleave_moe_layer_step") or 1

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=True)
        if not has_experts or index < dense_layers or (index + 1) % every:
            return LayerSpec(mixer, mlp(header, index))
        has_selection_bias = header.has(Role.ROUTER_SELECTION, otherwise=True)
        return LayerSpec(mixer, moe(header, index, has_selection_bias=has_selection_bias))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("ernie4_5", "ernie4_5-moe"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"ernie4_5": ("ernie4_5", {}), "ernie4_5_moe": ("ernie4_5-moe", {})},
)
