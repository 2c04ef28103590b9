"""Encoders against transformers, on small random models; and a text's bits alone and in company."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.encoder_reference import EncoderReference, LoadedReference
from kit.encoders import BERT, BIASES, CLASSIFIER_MODEL, EMBEDDED, ENCODER, LAYER_NORM, OFFSET
from kit.family_model import FamilyModel
from kit.family_reference import ATTENTION, MLP, POST_NORMS
from kit.single_rank import SingleRank

from rowspan.checkpoint.tensor_names import Role
from rowspan.kernels.isa import TORCH, available_isas
from rowspan.scheduler.batch import Chunk

ONE_TYPE, TWO_TYPES = ({"tokenizer.ggml.token_type_count": count} for count in (1, 2))
SUMS = {Role.POST_ATTN_NORM: "post_attention_layernorm", Role.POST_FFN_NORM: "post_mlp_layernorm"}
ROTATED = EMBEDDED | {role: ATTENTION[role] for role in (Role.Q, Role.K, Role.V, Role.O)} | SUMS
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}
GEMMA = {
    "block_count": 6,
    "attention.sliding_window": 40,
    "attention.key_length": 32,
    "dense_2_feat_out": 96,
    "dense_3_feat_out": 64,
    "rope.freq_base": 1e6,
}

MODELS = {
    "bert": ENCODER,
    "xlm-roberta": (
        FamilyModel("bert", LAYER_NORM, also=BIASES, extra=ONE_TYPE),
        EncoderReference("XLMRoberta", "encoder.layer", BERT, sizes=OFFSET),
    ),
    "nomic-bert": (
        FamilyModel("nomic-bert", {**LAYER_NORM, "rope.freq_base": 1000.0}, extra=TWO_TYPES),
        EncoderReference("NomicBert", "layers", ROTATED | MLP, sizes=ROPE),
    ),
    "jina-bert-v3": (
        FamilyModel("jina-bert-v3", {**LAYER_NORM, "rope.freq_base": 1000.0}, also=BIASES, extra=ONE_TYPE),
        EncoderReference(
            "JinaEmbeddingsV3", "layers", ROTATED | {Role.UP: "mlp.fc1", Role.DOWN: "mlp.fc2"}, sizes=ROPE
        ),
    ),
    "a classifier": CLASSIFIER_MODEL,
    "gemma-embedding": (
        FamilyModel(
            "gemma-embedding",
            GEMMA,
            also=((Role.Q_NORM, "weight"), (Role.DENSE_1, "weight"), (Role.DENSE_2, "weight")),
        ),
        EncoderReference(
            "Gemma3Text",
            "layers",
            ATTENTION
            | MLP
            | POST_NORMS
            | {
                Role.EMBEDDING: "embed_tokens",
                Role.FFN_NORM: "pre_feedforward_layernorm",
                Role.FINAL_NORM: "norm",
            },
            sizes={
                "head_dim": 32,
                "num_key_value_heads": 2,
                "query_pre_attn_scalar": 32,
                "sliding_window": 40,
                "use_bidirectional_attention": True,
                "rms_norm_eps": 1e-5,
                "layer_types": [*["sliding_attention"] * 5, "full_attention"],
            },
            less_one=True,
        ),
    ),
    "modern-bert": (
        FamilyModel(
            "modern-bert",
            {**LAYER_NORM, "block_count": 4, "attention.sliding_window": 40, "rope.freq_base": 160000.0},
        ),
        EncoderReference(
            "ModernBert",
            "layers",
            {
                Role.EMBEDDING: "embeddings.tok_embeddings",
                Role.EMBEDDING_NORM: "embeddings.norm",
                Role.ATTN_NORM: "attn_norm",
                Role.O: "attn.Wo",
                Role.FFN_NORM: "mlp_norm",
                Role.DOWN: "mlp.Wo",
                Role.FINAL_NORM: "final_norm",
            },
            {"attn.Wqkv": (Role.Q, Role.K, Role.V), "mlp.Wi": (Role.GATE, Role.UP)},
            {"local_attention": 40, "norm_eps": 1e-6},
        ),
    ),
}


@cache
def reference(name: str) -> LoadedReference:
    return LoadedReference(*MODELS[name])


def some_tokens(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(2, 45), k=length))  # 0 and 1 fill up, in transformers


def chunk(number: int, tokens: tuple[int, ...]) -> Chunk:
    blocks = tuple(range(16 * number, 16 * number + -(-len(tokens) // 32)))
    return Chunk(number, tokens, 0, blocks, samples=0, hidden=len(tokens))


@pytest.mark.parametrize(
    ("name", "isa"),
    [*((name, available_isas()[0]) for name in MODELS), *((name, TORCH) for name in ("modern-bert", "a classifier"))],
)
def test_hidden_states_are_those_of_transformers(name: str, isa: str, tmp_path: Path) -> None:
    """Texts longer than a chunk of keys and shorter than a window; the same bits alone and in a step with others."""
    rank = SingleRank(MODELS[name][0].write(tmp_path / "model.gguf"), isa=isa)
    texts = [some_tokens(length, seed) for seed, length in enumerate((300, 3, 1, 47))]
    together = rank.states([chunk(number, text) for number, text in enumerate(texts)])
    for text, found in zip(texts, torch.split(together, [len(text) for text in texts]), strict=True):
        expected = reference(name).states(text)  # a classifier's are those of a whole text, which its first token tells
        np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4)
        assert torch.equal(found, rank.states([chunk(2, text)]))
