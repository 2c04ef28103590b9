"""Mistral 3, Ministral, Devstral, Magistral: as Llama, with queries that grow with their position, and YaRN.

https://huggingface.co/docs/transformers/model_doc/ministral3
"""

from __future__ import annotations

import math

from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe, rope
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, Temperature


def spec(header: ModelHeader) -> ModelSpec:
    heads = header.integer("attention.head_count")
    size = header.integer("attention.key_length", header.integer("embedding_length") // heads)
    rotation = rope(header, size, interleaved=True, yarn_attn_factor=_magnitude(header))
    grows = header.number("attention.temperature_scale", 0.0)
    temperature = Temperature(grows, rotation.original_context) if grows else None
    experts = header.optional_integer("expert_count")

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=True, rope=rotation, temperature=temperature)
        return LayerSpec(mixer, moe(header, index) if experts else mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


def _magnitude(header: ModelHeader) -> float:
    """The factor of cosines and sines beside YaRN's own, 1 + 0.1 · ln(factor), which it divides by its like."""
    own = 0.1 * math.log(header.number("rope.scaling.factor", 1.0))
    multiplier = header.number("rope.scaling.yarn_log_multiplier", 0.0)
    return header.number("rope.scaling.attn_factor", 1.0) / (1 + multiplier * own)


FAMILY = Family(
    architectures=("mistral3",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"ministral3": ("mistral3", {})},
)
