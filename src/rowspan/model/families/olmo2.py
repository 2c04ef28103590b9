"""OLMo 2 and 3: results of attention and MLP are normed, not their inputs; queries and keys over all heads together.

OLMo 3 has windows in three layers of four, where positions are rotated without scaling. https://arxiv.org/abs/2501.00656
"""

from __future__ import annotations

from rowspan.model.families.family import (
    LAYER_TENSORS,
    POST_NORM_TENSORS,
    Family,
    attention,
    mlp,
    model,
    rope,
    windowed,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    window, has_window = header.optional_integer("attention.sliding_window"), windowed(header, every=4)
    heads = header.integer("attention.head_count")
    key_size = header.integer("attention.key_length", header.integer("embedding_length") // heads)
    full = rope(header, key_size, interleaved=False)
    local = rope(header, key_size, interleaved=False, scaling="none", factor=1.0, yarn_attn_factor=1.0)

    def layer(index: int) -> LayerSpec:
        is_local = window is not None and has_window[index]
        mixer = attention(
            header,
            index,
            interleaved_rope=False,
            rope=local if is_local else full,
            window=window if is_local else None,
            qk_norm=QkNorm.ROW,
        )
        return LayerSpec(mixer, mlp(header, index), pre_norm=False, post_norm=True)

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("olmo2",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS,
    hf_types={"olmo2": ("olmo2", {}), "olmo3": ("olmo2", {})},
)
