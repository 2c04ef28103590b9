"""Names the parts of a `ModelSpec` that the engine cannot compute yet: such a model can be planned, but is refused when
run.
"""

from __future__ import annotations

from collections.abc import Iterator

from rowspan.errors import UnsupportedModelError
from rowspan.model.spec import LayerSpec, ModelSpec


def check_supported(spec: ModelSpec) -> None:
    """Raise UnsupportedModelError, which names what the engine lacks, unless it can compute this model."""
    lacking = dict.fromkeys(what for layer in spec.layer_kinds for what in _lacking(layer))
    if lacking:
        raise UnsupportedModelError(
            f"{spec.name} cannot be run by Rowspan's own engine yet.",
            why=f"It has {', '.join(lacking)}.",
            fix="Use --backend llamacpp, or choose another model.",
        )


def _lacking(layer: LayerSpec) -> Iterator[str]:
    if layer.mixer.latent and layer.mixer.latent.has_joined_kv_b:
        yield "latent attention with both of its projections in one matrix, as old conversions have it"
    if layer.mixer.has_gate:
        yield "gated attention"
