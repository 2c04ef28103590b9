"""Granite 3 and 4 without state-space layers: embeddings, scores, residuals and logits have scales; dense or mixtures.

https://huggingface.co/docs/transformers/model_doc/granite
"""

from __future__ import annotations

from typing import Any

from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, MlpSpec, ModelSpec

TIED = {"tie_word_embeddings": True}


def spec(header: ModelHeader) -> ModelSpec:
    differences: dict[str, Any] = {"scale": header.number("attention.scale", 0.0) or None}
    if not header.flag("rope.scaling.finetuned", True):
        differences["rope"] = None

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=True, **differences)
        if not header.optional_integer("expert_count"):
            return LayerSpec(mixer, mlp(header, index))
        expert = MlpSpec(header.in_layer("feed_forward_length", index))
        return LayerSpec(mixer, moe(header, index, expert=expert))

    return model(
        header,
        tuple(layer(index) for index in range(header.n_layers)),
        embedding_scale=header.number("embedding_scale", 1.0) or 1.0,
        residual_scale=header.number("residual_scale", 1.0) or 1.0,
        logit_scale=1 / (header.number("logit_scale", 1.0) or 1.0),
    )


FAMILY = Family(
    architectures=("granite", "granitemoe"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={
        "granite": ("granite", {}),
        "granitemoe": ("granitemoe", TIED),
        "granitemoeshared": ("granitemoe", TIED),
    },
)
