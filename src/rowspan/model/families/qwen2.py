"""Qwen2 and Qwen2.5: queries, keys and values have biases; dense, or a mixture with a shared expert that has a gate."""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import EXPERT_TENSORS, LAYER_TENSORS, Family, attention, mlp, model, moe
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, MoeSpec


def spec(header: ModelHeader) -> ModelSpec:
    differences = {
        "window": header.optional_integer("attention.sliding_window"),
        "has_qkv_bias": header.has(Role.Q, "bias", otherwise=True),
    }
    experts = header.optional_integer("expert_count")

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, **differences)
        return LayerSpec(mixer, _mixture(header, index) if experts else mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


def _mixture(header: ModelHeader, layer: int) -> MoeSpec:
    has_shared_gate = header.has(Role.SHARED_SCALE, otherwise=True)
    normalize = header.flag("expert_weights_norm", False)
    return moe(header, layer, normalize=normalize, has_shared_gate=has_shared_gate)


FAMILY = Family(
    architectures=("qwen2", "qwen2moe"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS,
    hf_types={"qwen2": ("qwen2", {}), "qwen2_moe": ("qwen2moe", {"norm_topk_prob": False})},
    has_known_mixes=True,
)
