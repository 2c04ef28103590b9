"""Descriptions of small dense models whose layers are alike, without a file."""

from __future__ import annotations

from rowspan.model.spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, QkNorm, RopeSpec


def dense_spec(
    *,
    n_layers: int = 6,
    hidden_size: int = 64,
    n_heads: int = 6,
    n_kv_heads: int = 3,
    head_dim: int = 16,
    ffn_size: int = 96,
    vocab_size: int = 100,
    context_length: int = 256,
    tied_embeddings: bool = True,
    biases: bool = False,
    qk_norm: QkNorm = QkNorm.NONE,
) -> ModelSpec:
    attention = AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_size=head_dim,
        value_size=head_dim,
        rope=RopeSpec(dim=head_dim, base=1e4, interleaved=True),
        qk_norm=qk_norm,
        has_qkv_bias=biases,
        has_output_bias=biases,
    )
    layer = LayerSpec(attention, MlpSpec(ffn_size, has_bias=biases))
    return ModelSpec(
        architecture="llama",
        name="Dense",
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        context_length=context_length,
        norm_eps=1e-5,
        layers=(layer,) * n_layers,
        tied_embeddings=tied_embeddings,
    )
