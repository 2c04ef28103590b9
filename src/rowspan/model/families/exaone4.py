"""EXAONE 4: results of attention and MLP are normed, not their inputs; large ones have windows in three layers of four,
and rotate positions in these only. https://arxiv.org/abs/2507.11407
"""

from __future__ import annotations

from typing import Any

from rowspan.model.families.family import (
    LAYER_TENSORS,
    POST_NORM_TENSORS,
    Family,
    attention,
    mlp,
    model,
    windowed,
)
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec, QkNorm


def spec(header: ModelHeader) -> ModelSpec:
    window, has_window = header.optional_integer("attention.sliding_window"), windowed(header, every=4)

    def layer(index: int) -> LayerSpec:
        differences: dict[str, Any] = {}
        if window is not None:
            differences = {"window": window} if has_window[index] else {"rope": None}
        mixer = attention(header, index, interleaved_rope=False, qk_norm=QkNorm.HEAD, **differences)
        return LayerSpec(mixer, mlp(header, index), pre_norm=False, post_norm=True)

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(
    architectures=("exaone4",),
    spec=spec,
    layer_tensors=LAYER_TENSORS | POST_NORM_TENSORS,
    hf_types={"exaone4": ("exaone4", {})},
)
