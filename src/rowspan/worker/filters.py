"""Draws a token with the filters that need all tokens in order: they are asked for rarely, and cost milliseconds.

In the order of llama.cpp's chain: top_n_sigma, top_k, typical_p, top_p, min_p, XTC, temperature.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rowspan.scheduler.request import SamplingParams

Logits = NDArray[np.float32]
Numbers = NDArray[np.float64]

COLDEST = 1e-4  # below this temperature, dividing by it overflows; the likeliest token has won long before
MOST_XTC = 0.5  # above this threshold only one token can be as likely, and none is left out


def draw_filtered(logits: Logits, params: SamplingParams, uniforms: tuple[float, float]) -> int:
    """Choose a token.

    Args:
        logits: of one sequence; at least one is finite.
        uniforms: in [0, 1): the first is drawn by, the second says whether XTC leaves tokens out.
    """
    order = np.argsort(-logits, kind="stable")  # ties: the lower id
    ranked = logits[order].astype(np.float64)
    kept = np.isfinite(ranked)
    if params.top_n_sigma > 0:
        kept &= ranked >= ranked[0] - params.top_n_sigma * ranked[kept].std()
    order, ranked = order[kept], ranked[kept]
    if params.top_k > 0:
        order, ranked = order[: params.top_k], ranked[: params.top_k]
    if params.typical_p < 1.0:
        typical = _typical(ranked, params.typical_p)
        order, ranked = order[typical], ranked[typical]
    if params.top_p < 1.0:
        mass = np.cumsum(_probabilities(ranked))
        first = 1 + int(np.searchsorted(mass, params.top_p * mass[-1]))
        order, ranked = order[:first], ranked[:first]
    if params.min_p > 0.0:
        likely = max(1, int(np.count_nonzero(ranked - ranked[0] >= math.log(params.min_p))))
        order, ranked = order[:likely], ranked[:likely]
    if params.xtc_threshold <= MOST_XTC and uniforms[1] < params.xtc_probability:
        left_out = max(0, int(np.count_nonzero(_probabilities(ranked) >= params.xtc_threshold)) - 1)
        order, ranked = order[left_out:], ranked[left_out:]
    temperature = _temperature(ranked, params)
    if temperature < COLDEST:
        return int(order[0])
    mass = np.cumsum(np.exp((ranked - ranked[0]) / temperature))
    rank = int(np.searchsorted(mass, uniforms[0] * mass[-1], side="right"))
    return int(order[min(rank, len(order) - 1)])


def _temperature(ranked: Numbers, params: SamplingParams) -> float:
    """The temperature for the tokens that are left: the higher, the less sure the model is which of them comes next
    (Zhu et al. 2023, arXiv 2309.02772), by the share of the largest entropy that so many tokens can have.
    """
    if params.dynatemp_range <= 0 or params.temperature <= 0 or len(ranked) < 2:
        return params.temperature
    probabilities = _probabilities(ranked)
    entropy = -float((probabilities * np.log(np.maximum(probabilities, 1e-300))).sum())
    lowest = max(0.0, params.temperature - params.dynatemp_range)
    highest = params.temperature + params.dynatemp_range
    share = min(1.0, max(0.0, entropy / math.log(len(ranked))))
    return lowest + (highest - lowest) * math.pow(share, params.dynatemp_exponent)


def _probabilities(ranked: Numbers) -> Numbers:
    weights = np.exp(ranked - ranked[0])
    probabilities: Numbers = weights / weights.sum()
    return probabilities


def _typical(ranked: Numbers, mass: float) -> NDArray[np.intp]:
    """Places of the tokens whose surprise is nearest to the expected one (Meister et al. 2022, arXiv 2202.00666)."""
    probabilities = _probabilities(ranked)
    surprise = -np.log(np.maximum(probabilities, 1e-300))
    entropy = float((probabilities * surprise).sum())
    nearest = np.argsort(np.abs(surprise - entropy), kind="stable")
    last = int(np.searchsorted(np.cumsum(probabilities[nearest]), mass, side="right"))
    return np.sort(nearest[: last + 1])
