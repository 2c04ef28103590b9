"""Gemma 2 and 3: norms before and after, GELU, embeddings scaled by √d, windows in all layers but every n-th.

Gemma 2 caps scores and logits; Gemma 3 norms queries and keys instead, and its layers with a window rotate by a base of
their own. https://arxiv.org/abs/2408.00118, https://arxiv.org/abs/2503.19786
"""

from __future__ import annotations

import math

from rowspan.checkpoint.tensor_names import Role
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
from rowspan.model.spec import Activation, LayerSpec, ModelSpec, QkNorm

TIED = {"tie_word_embeddings": True}
SCALED_BY_HIDDEN = {"gemma2": 46, "gemma3": 62}  # layers of the 27B, whose scores alone are divided by √(d / heads)


def spec(header: ModelHeader) -> ModelSpec:
    is_third = header.architecture != "gemma2"
    hidden, n_heads = header.integer("embedding_length"), header.integer("attention.head_count")
    window = header.optional_integer("attention.sliding_window", None if is_third else 4096)
    has_window = windowed(header, every=6 if is_third else 2)
    scale = (hidden / n_heads) ** -0.5 if header.n_layers == SCALED_BY_HIDDEN.get(header.architecture) else None
    soft_cap = None if is_third else header.number("attn_logit_softcapping", 50.0)
    final_soft_cap = header.number("final_logit_softcapping", 0.0 if is_third else 30.0) or None
    key_size = header.integer("attention.key_length", hidden // n_heads)
    global_rope = rope(header, key_size, interleaved=False)
    local_rope = global_rope
    if is_third:
        local_base = header.number("rope.freq_base_swa", 10000.0)
        local_rope = rope(header, key_size, interleaved=False, base=local_base, scaling="none", factor=1.0)

    def layer(index: int) -> LayerSpec:
        mixer = attention(
            header,
            index,
            interleaved_rope=False,
            rope=local_rope if has_window[index] else global_rope,
            window=window if has_window[index] else None,
            scale=scale,
            soft_cap=soft_cap,
            qk_norm=QkNorm.HEAD if header.has(Role.Q_NORM, otherwise=is_third) else QkNorm.NONE,
        )
        return LayerSpec(mixer, mlp(header, index, activation=Activation.GELU), post_norm=True)

    layers = tuple(layer(index) for index in range(header.n_layers))
    return model(header, layers, embedding_scale=math.sqrt(hidden), final_soft_cap=final_soft_cap)


FAMILY = Family(
    architectures=("gemma2", "gemma3"),
    spec=spec,
    layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS,
    hf_types={"gemma2": ("gemma2", TIED), "gemma3_text": ("gemma3", TIED)},
)
