"""Qwen2 and Qwen2.5: queries, keys and values have biases."""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import Family, attention, mlp, model
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    differences = {
        "window": header.optional_integer("attention.sliding_window"),
        "has_qkv_bias": header.has(Role.Q, "bias", otherwise=True),
    }
    layers = (
        LayerSpec(attention(header, index, interleaved_rope=False, **differences), mlp(header, index))
        for index in range(header.n_layers)
    )
    return model(header, tuple(layers))


FAMILY = Family(architectures=("qwen2",), spec=spec, hf_types={"qwen2": ("qwen2", {})}, has_known_mixes=True)
