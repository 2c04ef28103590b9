"""Seed-OSS: q, k and v have biases; the norm before the MLP is called the one after attention."""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import LATE_NORM_TENSORS, Family, attention, mlp, model
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    has_bias = header.has(Role.Q, "bias", otherwise=True)

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, has_qkv_bias=has_bias)
        return LayerSpec(mixer, mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("seed_oss",),
    spec=spec,
    layer_tensors=LATE_NORM_TENSORS,
    hf_types={"seed_oss": ("seed_oss", {})},
)
