"""gpt-oss: mixtures with biases everywhere, sinks in attention, windows in every other layer.

https://arxiv.org/abs/2508.10925
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LATE_NORM_TENSORS,
    Family,
    attention,
    model,
    moe,
    windowed,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Activation, Gating, LayerSpec, MlpSpec, ModelSpec


def spec(header: ModelHeader) -> ModelSpec:
    window, has_window = header.optional_integer("attention.sliding_window"), windowed(header, every=2)
    width = header.integer("expert_feed_forward_length", header.integer("feed_forward_length", 0) or None)

    def layer(index: int) -> LayerSpec:
        mixer = attention(
            header,
            index,
            interleaved_rope=False,
            window=window if has_window[index] else None,
            has_qkv_bias=True,
            has_output_bias=True,
            has_sinks=True,
        )
        expert = MlpSpec(width, Activation.CLAMPED_SWIGLU, has_bias=True)
        mixture = {"gating": Gating.SOFTMAX_CHOSEN, "normalize": False, "has_router_bias": True}
        return LayerSpec(mixer, moe(header, index, expert=expert, **mixture))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("gpt-oss",),
    spec=spec,
    layer_tensors=LATE_NORM_TENSORS | EXPERT_TENSORS | {"attn_sinks": Role.SINKS},
    hf_types={"gpt_oss": ("gpt-oss", {})},
)
