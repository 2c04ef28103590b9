"""ModernBERT: an encoder with norms before, rotated queries and keys, and a window in all layers but every third.

https://arxiv.org/abs/2412.13663
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families.family import (
    LAYER_TENSORS,
    Family,
    attention,
    check_encoder,
    fused_gate_up,
    fused_qkv,
    mlp,
    model,
    rope,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Activation, EncoderSpec, LayerSpec, ModelSpec, NormKind

PATTERN = "attention.sliding_window_pattern"


def spec(header: ModelHeader) -> ModelSpec:
    check_encoder(header)
    window = header.optional_integer("attention.sliding_window")
    every = header.integer(PATTERN, 3) if header.flags(PATTERN) is None else 0
    has_window = header.flags(PATTERN) or tuple(bool(index % every) for index in range(header.n_layers))
    key_size = header.integer("embedding_length") // header.in_layer("attention.head_count", 0)
    local_base = header.number("rope.freq_base_swa", 10000.0)
    local_rope = rope(header, key_size, interleaved=False, base=local_base)

    def layer(index: int) -> LayerSpec:
        local = {"rope": local_rope, "window": window} if has_window[index] else {}
        mixer = attention(header, index, interleaved_rope=False, **local)
        # The embeddings are normed already.
        return LayerSpec(mixer, mlp(header, index, activation=Activation.GELU_ERF), has_attn_norm=index > 0)

    return model(
        header,
        tuple(layer(index) for index in range(header.n_layers)),
        tied_embeddings=False,
        norm=NormKind.LAYER,
        norm_eps=header.number("attention.layer_norm_epsilon"),
        encoder=EncoderSpec(has_embedding_norm=True, has_final_norm=True),
    )


FAMILY = Family(
    architectures=("modern-bert",),
    spec=spec,
    layer_tensors=LAYER_TENSORS,
    model_tensors={
        "token_embd": Role.EMBEDDING,
        "token_embd_norm": Role.EMBEDDING_NORM,
        "output_norm": Role.FINAL_NORM,
    },
    fused={"attn_qkv": fused_qkv, "ffn_up": fused_gate_up},
)
