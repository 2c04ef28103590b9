"""Computes the angles of rotary position embeddings, with every scaling folded into one table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowspan.model.spec import ModelSpec, RopeSpec, Temperature

BLOCK = 4096  # positions whose angles are computed at a time


@dataclass(frozen=True)
class RopeTable:
    """Cosines and sines of the angles, float32 (positions, dim / 2), with the scaling's factor folded in."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    interleaved: bool


def rope_table(spec: RopeSpec, n_positions: int, freq_divisors: NDArray[np.float32] | None) -> RopeTable:
    """The table for positions 0 … n_positions - 1, computed in float64.

    freq_divisors: one per pair, from the tensor `rope_freqs` (Llama-3 scaling), or one of LongRoPE's two.
    """
    pairs = np.arange(spec.dim // 2, dtype=np.float64)
    frequencies = spec.base ** (-2.0 * pairs / spec.dim)
    if freq_divisors is not None and spec.has_factors:
        frequencies = frequencies / freq_divisors
    magnitude = spec.yarn_attn_factor
    if spec.scaling == "linear":
        frequencies = frequencies / spec.factor
    elif spec.scaling == "yarn":
        kept = _yarn_kept(spec, pairs)
        frequencies = frequencies * kept + frequencies / spec.factor * (1 - kept)
        if spec.yarn_ext_factor:
            magnitude *= 1.0 + 0.1 * math.log(spec.factor)
    cos, sin = (np.empty((n_positions, len(pairs)), np.float32) for _ in range(2))
    for first in range(0, n_positions, BLOCK):  # else a million positions took 1.5 GB of float64
        block = slice(first, min(first + BLOCK, n_positions))
        angles = np.outer(np.arange(block.start, block.stop), frequencies)
        cos[block], sin[block] = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    return RopeTable(cos, sin, spec.interleaved)


def table_bytes(spec: ModelSpec) -> int:
    """Bytes for a position in all tables of a model, on each rank."""
    return 4 * (sum(2 * (rope.dim // 2) for rope in spec.ropes) + len(spec.temperatures))


def temperatures(spec: Temperature, n_positions: int) -> NDArray[np.float32]:
    """The factors of queries at positions 0 … n_positions - 1."""
    steps = np.floor((np.arange(n_positions) + spec.offset) / spec.original_context)
    factors: NDArray[np.float32] = (np.log(steps + 1) * spec.scale + 1).astype(np.float32)
    return factors


def _yarn_kept(spec: RopeSpec, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each frequency that stays unscaled (Peng et al. 2023, section 3.2): 1 for the fast ones, which turn
    more than beta_fast times within the original context, 0 for the slow ones, and a ramp between.
    """

    def pair_turning(turns: float) -> float:
        return spec.dim * math.log(spec.original_context / (turns * 2 * math.pi)) / (2 * math.log(spec.base))

    low = max(0, math.floor(pair_turning(spec.yarn_beta_fast)))
    high = min(spec.dim - 1, math.ceil(pair_turning(spec.yarn_beta_slow)))
    ramp = np.clip((pairs - low) / max(0.001, high - low), 0, 1)
    return (1 - ramp) * spec.yarn_ext_factor
