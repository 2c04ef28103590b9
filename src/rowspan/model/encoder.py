"""What encoders do before their first layer and behind their last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowspan.kernels.ops import Array, Kernels
from rowspan.model.norm import Norm, norm
from rowspan.model.projection import Projection
from rowspan.model.spec import ModelSpec


@dataclass(frozen=True)
class EncoderWeights:
    """See `rowspan.model.spec.EncoderSpec`.

    added: what is added to the tokens' embeddings, (positions, hidden), or one row for all of them; None: nothing.
    classifier: its layers; none if there is no classifier.
    """

    added: Any
    embedding_norm: Norm | None
    dense: tuple[Projection, ...]
    classifier: tuple[Projection, ...]


def embedded(kernels: Kernels[Array], x: Array, weights: EncoderWeights | None, spec: ModelSpec, inputs: Any) -> Array:
    """The first layer's input, from the embeddings of tokens x (T, hidden)."""
    if weights is None:
        return x
    if weights.added is not None:
        x = kernels.add_by_position(x, weights.added, inputs)
    return x if weights.embedding_norm is None else norm(kernels, x, weights.embedding_norm, spec)


def encoder_output(kernels: Kernels[Array], hidden: Array, weights: EncoderWeights) -> Array:
    """What an encoder gives back of hidden states (N, hidden): embeddings of tokens or, with a classifier, scores."""
    for matrix in weights.dense:
        hidden = matrix.of(kernels, hidden)
    for index, layer in enumerate(weights.classifier):
        if index:
            hidden = kernels.soft_cap(hidden, 1.0)  # tanh
        hidden = layer.of(kernels, hidden)
    return hidden
