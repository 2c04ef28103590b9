"""Turns the hidden states of a text into one embedding. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.errors import UsageError
from rowspan.model.spec import ModelSpec
from rowspan.scheduler.request import WantedStates

Floats = NDArray[np.float32]


class Pooling(StrEnum):
    """MEAN: of all tokens. CLS: the first token. LAST: the last one. RANK: what a classifier makes of the first one."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"

    @property
    def states(self) -> WantedStates:
        """The tokens whose hidden states it takes."""
        return WantedStates.LAST if self is Pooling.LAST else WantedStates.ALL

    def of(self, states: Floats) -> Floats:
        """states (tokens, size), or those of the last token only, → (size,)"""
        match self:
            case Pooling.MEAN:
                mean: Floats = states.mean(axis=0)
                return mean
            case Pooling.LAST:
                last: Floats = states[-1]
                return last
        first: Floats = states[0]
        return first


NUMBERS = {1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST}  # GGUF's `pooling_type`


def pooling_of(asked: str | None, spec: ModelSpec, metadata: Mapping[str, Any]) -> Pooling:
    """The pooling of a model: the one asked for, or else that which its file names; failing that, the mean for encoders
    and the last token for decoders, the only one that has seen all others.

    Raises:
        UsageError: the model cannot be pooled so.
    """
    is_ranker = spec.encoder is not None and spec.encoder.n_labels > 0
    if asked is not None and (asked == Pooling.RANK) != is_ranker:
        raise UsageError(
            f"--pooling {asked} cannot be had of {spec.name}.",
            why="It is a classifier, and gives scores instead of embeddings." if is_ranker else "It has no classifier.",
            fix="Leave the option out.",
        )
    if is_ranker:
        return Pooling.RANK
    if asked is not None:
        return Pooling(asked)
    number = metadata.get(f"{spec.architecture}.pooling_type")
    return NUMBERS.get(number if isinstance(number, int) else 0, Pooling.LAST if spec.causal else Pooling.MEAN)


def unit(vector: Floats, dimensions: int | None = None) -> Floats:
    """The vector's first elements, as many as asked for (Kusupati et al. 2022, "Matryoshka"), at length 1."""
    kept = vector[:dimensions]
    length = float(np.linalg.norm(kept))
    scaled: Floats = kept / np.float32(length or 1.0)
    return scaled
