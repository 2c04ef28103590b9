"""Tables of what depends on a token's position: rotation angles, and factors of queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.kernels.ops import Kernels
from rowspan.model.rope_table import rope_table, temperatures
from rowspan.model.spec import ModelSpec, RopeSpec, Temperature
from rowspan.model.weights import ModelWeights


@dataclass(frozen=True)
class PositionTables:
    """In the kernels' form, by what they are tables of."""

    ropes: Mapping[RopeSpec, Any]
    temperatures: Mapping[Temperature, Any]


def position_tables(
    spec: ModelSpec, n_positions: int, context: int, weights: ModelWeights, kernels: Kernels[Any]
) -> PositionTables:
    """The tables of a model's layers for so many positions. context: tokens that a request may have."""
    return PositionTables(
        {
            rope: kernels.rope_table(rope_table(rope, n_positions, weights.rope_factors.of(rope, context)))
            for rope in spec.ropes
        },
        {one: kernels.vector(temperatures(one, n_positions), norm=True) for one in spec.temperatures},
    )
