"""Llama, Mistral, and models converted as them; with experts, Mixtral."""

from __future__ import annotations

from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    window, experts = header.optional_integer("attention.sliding_window"), header.optional_integer("expert_count")

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=True, window=window)
        return LayerSpec(mixer, moe(header, index) if experts else mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("llama", "mistral"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={kind: ("llama", {}) for kind in ("llama", "mistral", "mixtral")},
    has_known_mixes=True,
)
