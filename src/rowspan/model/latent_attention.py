"""Latent attention (DeepSeek-V2, arXiv 2405.04434), with the projections of keys and values absorbed: a query goes to
the latent's space instead of every key coming from it, so that a position's latent is all that is cached and read.

A cached key is the rotated elements that all heads share, then the latent; its value is the latent. So it is ordinary
attention of all query heads to one KV head, whose rotated elements come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowspan.kernels.ops import Array, AttentionOptions, Kernels, LayerCache, Weight
from rowspan.model.projection import Projection
from rowspan.model.spec import AttentionSpec


@dataclass(frozen=True)
class LatentWeights:
    """q: from the queries' latent, or from the hidden states where q_a is None. k_b, v_b: a matrix for each of the
    rank's heads, to the latent and from it.
    """

    q_a: Projection | None
    q_a_norm: Any
    q: Projection
    kv_a: Projection
    kv_a_norm: Any
    k_b: Weight
    v_b: Weight


def latent_attention(
    kernels: Kernels[Array],
    x: Array,
    weights: LatentWeights,
    spec: AttentionSpec,
    heads: int,
    eps: float,
    table: Any,
    cache: LayerCache,
    inputs: Any,
    *,
    outputs_only: bool,
) -> Array:
    """What this rank's heads make of x (T, hidden), before the output projection: (T or N, heads · value size).

    Args:
        outputs_only: beside the cache, only the output rows are needed.
    """
    latent = spec.latent
    assert latent is not None, "such layers have one"
    joint, rotated = kernels.split_heads(weights.kv_a.of(kernels, x), (latent.kv_rank, latent.rope_size))
    joint = kernels.rms_norm(joint, weights.kv_a_norm, eps)
    compressed = x
    if weights.q_a is not None:
        compressed = kernels.rms_norm(weights.q_a.of(kernels, x), weights.q_a_norm, eps)
    q = weights.q.of(kernels, compressed)
    plain, turned = kernels.split_heads(q, (spec.key_size - latent.rope_size, latent.rope_size))
    q = kernels.join_heads(turned, kernels.head_linear(plain, weights.k_b), heads)
    q = kernels.rope_and_cache(q, kernels.join_heads(rotated, joint, 1), joint, table, cache, inputs)
    if outputs_only:
        q, inputs = kernels.gather_output_rows(q, inputs), kernels.outputs_only(inputs)
    mixed = kernels.attention(q, cache, inputs, AttentionOptions(spec.score_scale, spec.window, spec.soft_cap))
    return kernels.head_linear(mixed, weights.v_b)
