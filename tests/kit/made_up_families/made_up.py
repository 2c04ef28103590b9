"""A family that nobody else has: norms after, a window in two of three layers, GELU, soft caps, another head size in
the layers without a window."""

from __future__ import annotations

from rowspan.model.families.family import LAYER_TENSORS, POST_NORM_TENSORS, Family, attention, mlp, model, rope
from rowspan.model.header import ModelHeader
from rowspan.model.spec import Activation, LayerSpec, ModelSpec

GLOBAL_EVERY = 3
SOFT_CAP, FINAL_SOFT_CAP = 10.0, 20.0


def spec(header: ModelHeader) -> ModelSpec:
    window, key_size = header.integer("attention.sliding_window"), header.integer("attention.key_length")

    def layer(index: int) -> LayerSpec:
        is_global = index % GLOBAL_EVERY == GLOBAL_EVERY - 1
        size = 2 * key_size if is_global else key_size
        mixer = attention(
            header,
            index,
            interleaved_rope=False,
            key_size=size,
            value_size=size,
            rope=rope(header, size, interleaved=False),
            window=None if is_global else window,
            soft_cap=SOFT_CAP,
        )
        return LayerSpec(mixer, mlp(header, index, activation=Activation.GELU), post_norm=True)

    layers = tuple(layer(index) for index in range(header.n_layers))
    return model(header, layers, embedding_scale=2.0, final_soft_cap=FINAL_SOFT_CAP)


FAMILY = Family(architectures=("made-up",), spec=spec, layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS)
