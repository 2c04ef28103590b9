"""Qwen3, dense and as a mixture: each head of queries and keys is normed."""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    differences = {
        "window": header.optional_integer("attention.sliding_window"),
        "qk_norm": QkNorm.HEAD if header.has(Role.Q_NORM, otherwise=True) else QkNorm.NONE,
    }
    experts = header.optional_integer("expert_count")

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, **differences)
        return LayerSpec(mixer, moe(header, index) if experts else mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("qwen3", "qwen3moe"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"qwen3": ("qwen3", {}), "qwen3_moe": ("qwen3moe", {})},
    has_known_mixes=True,
)
