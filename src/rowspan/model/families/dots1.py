"""dots.llm1: norms of queries and keys; first dense layers, then mixtures with shared experts.

https://arxiv.org/abs/2506.05767
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, gating, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Gating, LayerSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    dense_layers = header.optional_integer("leading_dense_block_count") or 0

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, qk_norm=QkNorm.HEAD)
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
    architectures=("dots1",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"dots1": ("dots1", {"scoring_func": "sigmoid"})},
)
