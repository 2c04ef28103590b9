"""EmbeddingGemma: Gemma 3 as an encoder, whose windows lie on both sides, with two matrices behind the last layer.

https://arxiv.org/abs/2509.20354
"""

from __future__ import annotations

from dataclasses import replace

from rowspan.checkpoint.tensor_names import Role
from rowspan.model.families import gemma
from rowspan.model.families.family import LAYER_TENSORS, POST_NORM_TENSORS, Family, check_encoder
from rowspan.model.header import ModelHeader
from rowspan.model.spec import EncoderSpec, ModelSpec

DENSE = {Role.DENSE_1: "dense_2_feat_out", Role.DENSE_2: "dense_3_feat_out"}  # sentence-transformers' modules 2 and 3


def spec(header: ModelHeader) -> ModelSpec:
    check_encoder(header)
    dense = tuple(header.integer(key) for role, key in DENSE.items() if header.has(role))
    encoder = EncoderSpec(has_final_norm=True, dense=dense)
    return replace(gemma.spec(header), tied_embeddings=False, encoder=encoder)


FAMILY = Family(
    architectures=("gemma-embedding",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS,
    model_tensors={
        "token_embd": Role.EMBEDDING,
        "output_norm": Role.FINAL_NORM,
        "dense_2": Role.DENSE_1,
        "dense_3": Role.DENSE_2,
    },
)
