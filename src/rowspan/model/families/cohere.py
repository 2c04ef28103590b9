"""Command R and Cohere 2: LayerNorms; attention and MLP side by side; logits are scaled.

Cohere 2 has windows in three layers of four, and rotates positions in these only.
"""

from __future__ import annotations

from rowspan.model.families.family import LAYER_TENSORS, Family, attention, mlp, model, rope, windowed
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, NormKind

TIED = {"tie_word_embeddings": True}


def spec(header: ModelHeader) -> ModelSpec:
    is_second = header.architecture == "cohere2"
    window = header.optional_integer("attention.sliding_window", 4096) if is_second else None
    has_window = windowed(header, every=4)

    def layer(index: int) -> LayerSpec:
        is_local = is_second and has_window[index]
        heads = header.integer("attention.head_count")
        size = header.integer("attention.key_length", header.integer("embedding_length") // heads)
        rotation = rope(header, size, interleaved=True) if is_local or not is_second else None
        mixer = attention(header, index, interleaved_rope=True, rope=rotation, window=window if is_local else None)
        return LayerSpec(mixer, mlp(header, index), parallel=True)

    return model(
        header,
        tuple(layer(index) for index in range(header.n_layers)),
        norm=NormKind.LAYER,
        norm_eps=header.number("attention.layer_norm_epsilon", 1e-5),
        logit_scale=header.number("logit_scale", 1.0),
    )


FAMILY = Family(
    architectures=("command-r", "cohere2"),
    spec=spec,
    layer_tensors=LAYER_TENSORS,
    hf_types={"cohere": ("command-r", TIED), "cohere2": ("cohere2", TIED)},
)
