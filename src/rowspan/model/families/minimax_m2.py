"""MiniMax M2: mixtures chosen by sigmoids; queries and keys are normed over all heads together."""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, gating, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Gating, LayerSpec, MlpSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, qk_norm=QkNorm.ROW)
        width = header.optional_integer("expert_feed_forward_length") or header.in_layer("feed_forward_length", index)
        mixture = moe(
            header,
            index,
            expert=MlpSpec(width),
            gating=gating(header, Gating.SIGMOID),
            has_selection_bias=header.has(Role.ROUTER_SELECTION, otherwise=True),
        )
        return LayerSpec(mixer, mixture)

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("minimax-m2",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"minimax_m2": ("minimax-m2", {"scoring_func": "sigmoid"})},
)
