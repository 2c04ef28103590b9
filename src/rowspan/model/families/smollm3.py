"""SmolLM3: every fourth layer embeds no positions."""

from __future__ import annotations

from rowspan.model.families.family import Family, attention, mlp, model
from rowspan.model.header import ModelHeader
from rowspan.model.spec import LayerSpec, ModelSpec

NO_ROPE_EVERY = 4  # no metadata key states this


def spec(header: ModelHeader) -> ModelSpec:
    def layer(index: int) -> LayerSpec:
        rope = {"rope": None} if index % NO_ROPE_EVERY == NO_ROPE_EVERY - 1 else {}
        return LayerSpec(attention(header, index, interleaved_rope=True, **rope), mlp(header, index))

    return model(header, tuple(layer(index) for index in range(header.n_layers)))


FAMILY = Family(architectures=("smollm3",), spec=spec, hf_types={"smollm3": ("smollm3", {})})
