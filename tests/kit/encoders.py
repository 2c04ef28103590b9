"""Two small random encoders with WordPiece's vocabulary, each with its reference in transformers: one that embeds, and
a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from kit.encoder_reference import EncoderReference
from kit.family_model import FamilyModel

from rowspan.checkpoint.tensor_names import Role

LAYER_NORM = {
    "context_length": 512,
    "attention.head_count_kv": None,
    "attention.layer_norm_rms_epsilon": None,
    "attention.layer_norm_epsilon": 1e-6,
}
BIASES = tuple((role, "bias") for role in (Role.Q, Role.O, Role.DOWN))
EMBEDDED = {
    Role.EMBEDDING: "embeddings.word_embeddings",
    Role.POSITIONS: "embeddings.position_embeddings",
    Role.TOKEN_TYPES: "embeddings.token_type_embeddings",
    Role.EMBEDDING_NORM: "embeddings.LayerNorm",
}
BERT = EMBEDDED | {
    Role.Q: "attention.self.query",
    Role.K: "attention.self.key",
    Role.V: "attention.self.value",
    Role.O: "attention.output.dense",
    Role.POST_ATTN_NORM: "attention.output.LayerNorm",
    Role.UP: "intermediate.dense",
    Role.DOWN: "output.dense",
    Role.POST_FFN_NORM: "output.LayerNorm",
}
OFFSET = {"max_position_embeddings": 514, "pad_token_id": 1}  # RoBERTa's first two positions stand for none
CLASSIFIER = {Role.CLASSIFIER: "classifier.dense", Role.CLASSIFIER_OUT: "classifier.out_proj"}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"\u2581{word}" for word in ("alpha", "beta", "gamma", "delta", *(f"word{n}" for n in range(40))))
WORD_PIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "bert",
    "tokenizer.ggml.tokens": [*SPECIAL, *WORDS],
    "tokenizer.ggml.token_type": np.array([3] * len(SPECIAL) + [1] * len(WORDS), np.int32),
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.seperator_token_id": 3,
    "tokenizer.ggml.unknown_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
}

ENCODER = (
    FamilyModel(
        "bert",
        {**LAYER_NORM, "pooling_type": 1},
        also=BIASES,
        extra={**WORD_PIECE, "tokenizer.ggml.token_type_count": 2},
    ),
    EncoderReference("Bert", "encoder.layer", BERT),
)
CLASSIFIER_MODEL = (
    FamilyModel(
        "bert",
        {**LAYER_NORM, "pooling_type": 4, "classifier.output_labels": ("LABEL_0",)},
        also=(*BIASES, (Role.CLASSIFIER, "weight"), (Role.CLASSIFIER_OUT, "weight")),
        extra={**WORD_PIECE, "tokenizer.ggml.token_type_count": 1},
    ),
    EncoderReference(
        "XLMRoberta",
        "roberta.encoder.layer",
        BERT | {role: f"roberta.{name}" for role, name in EMBEDDED.items()} | CLASSIFIER,
        sizes=OFFSET | {"num_labels": 1},
        model="ForSequenceClassification",
    ),
)
