"""Encoders of BERT's shape: the sums of hidden states and results are normed. BERT and RoBERTa add embeddings of
positions; Nomic's and Jina's later ones rotate queries and keys.

https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/2402.01613, https://arxiv.org/abs/2409.10173
"""

from __future__ import annotations

from rowspan.checkpoint.tensor_names import Names, Role
from rowspan.model.families.family import Family, attention, check_encoder, fused_qkv, mlp, model
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Activation, EncoderSpec, LayerSpec, ModelSpec, NormKind

TOKEN_TYPES = "tokenizer.ggml.token_type_count"
LABELS = "classifier.output_labels"
MODEL_TENSORS: Names = {
    "token_embd": Role.EMBEDDING,
    "position_embd": Role.POSITIONS,
    "token_types": Role.TOKEN_TYPES,
    "token_embd_norm": Role.EMBEDDING_NORM,
    "cls": Role.CLASSIFIER,
    "cls.output": Role.CLASSIFIER_OUT,
}
LAYER_TENSORS: Names = {
    "attn_q": Role.Q,
    "attn_k": Role.K,
    "attn_v": Role.V,
    "attn_output": Role.O,
    "attn_output_norm": Role.POST_ATTN_NORM,
    "ffn_gate": Role.GATE,
    "ffn_up": Role.UP,
    "ffn_down": Role.DOWN,
    "layer_output_norm": Role.POST_FFN_NORM,
}


def spec(header: ModelHeader) -> ModelSpec:
    check_encoder(header)
    has_rope = header.architecture != "bert"
    is_gated = header.architecture == "nomic-bert"
    activation = Activation.SILU if is_gated else Activation.GELU_ERF

    def layer(index: int) -> LayerSpec:
        mixer = attention(header, index, interleaved_rope=False, **({} if has_rope else {"rope": None}))
        dense = mlp(header, index, activation=activation, has_gate=is_gated)
        return LayerSpec(mixer, dense, pre_norm=False, norms_sum=True)

    types = header.metadata.get(TOKEN_TYPES)
    encoder = EncoderSpec(
        n_positions=0 if has_rope else header.integer("context_length"),
        n_token_types=types if isinstance(types, int) and header.has(Role.TOKEN_TYPES, otherwise=True) else 0,
        has_embedding_norm=True,
        has_norm_bias=True,
        n_labels=(len(header.get(LABELS) or ()) or 1) if header.has(Role.CLASSIFIER_OUT) else 0,
        has_classifier_layer=header.has(Role.CLASSIFIER),
    )
    return model(
        header,
        tuple(layer(index) for index in range(header.n_layers)),
        tied_embeddings=False,
        norm=NormKind.LAYER,
        norm_eps=header.number("attention.layer_norm_epsilon"),
        encoder=encoder,
    )


FAMILY = Family(
    architectures=("bert", "nomic-bert", "jina-bert-v3"),
    spec=spec,
    layer_tensors=LAYER_TENSORS,
    model_tensors=MODEL_TENSORS,
    fused={"attn_qkv": fused_qkv},
)
