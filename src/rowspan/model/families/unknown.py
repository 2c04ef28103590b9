"""The family for any other architecture: reads the usual keys, which suffices to count bytes, but not to compute."""

from __future__ import annotations

from rowspan.model.families.family import (
    EXPERT_TENSORS,
    LATENT_TENSORS,
    LAYER_TENSORS,
    POST_NORM_TENSORS,
    Family,
    latent_attention,
    model,
    moe,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, QkNorm, RopeSpec


def spec(header: ModelHeader) -> ModelSpec:
    """The model, with the largest size in every layer if a size differs from layer to layer."""
    width = max(header.per_layer("feed_forward_length")) if header.get("feed_forward_length") is not None else 0
    dense_layers = header.optional_integer("leading_dense_block_count") or 0
    experts = header.optional_integer("expert_count")
    mixer = latent_attention(header) if header.get("attention.kv_lora_rank") else _attention(header)
    dense = LayerSpec(mixer, MlpSpec(width))
    mixture = LayerSpec(mixer, moe(header, 0)) if experts else dense
    layers = tuple(mixture if index >= dense_layers else dense for index in range(header.n_layers))
    return model(header, layers)


def _attention(header: ModelHeader) -> AttentionSpec:
    n_heads = max(header.per_layer("attention.head_count"))
    if not n_heads:
        raise header.contradiction("no layer has attention heads")
    n_kv_heads = max(header.per_layer("attention.head_count_kv", n_heads)) or n_heads
    key_size = header.integer("attention.key_length", header.integer("embedding_length") // n_heads)
    return AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_size=key_size,
        value_size=header.integer("attention.value_length", key_size),
        rope=RopeSpec(key_size, 10000.0, interleaved=False),
        qk_norm=QkNorm.NONE,
    )


UNKNOWN = Family(
    architectures=(),
    spec=spec,
    layer_tensors=LAYER_TENSORS | EXPERT_TENSORS | LATENT_TENSORS | POST_NORM_TENSORS,
)
