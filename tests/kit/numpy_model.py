"""Any decoder in plain NumPy and float64, written from the descriptions of `rowspan.model.spec` and from papers:
slow, for one sequence, with nothing cached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import (
    Activation,
    AttentionSpec,
    Gating,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    MoeSpec,
    QkNorm,
    RopeSpec,
)

Array = Any  # NumPy's
Weights = Mapping[TensorKey, Array]


def logits(spec: ModelSpec, weights: Weights, tokens: Sequence[int]) -> Array:
    """(tokens, vocabulary)"""
    embedding = weights[TensorKey(Role.EMBEDDING)].astype(np.float64)
    x = embedding[list(tokens)] * spec.embedding_scale
    for index, layer in enumerate(spec.layers):
        x = _Layer(spec, layer, weights, index).forward(x)
    head = embedding if spec.tied_embeddings else weights[TensorKey(Role.HEAD)].astype(np.float64)
    out = norm(x, weights[TensorKey(Role.FINAL_NORM)], spec.norm_eps) @ head.T * spec.logit_scale
    return out if spec.final_soft_cap is None else capped(out, spec.final_soft_cap)


def norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def capped(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap)


def activate(activation: Activation, gate: Array, up: Array) -> Array:
    if activation is Activation.CLAMPED_SWIGLU:
        gate = np.minimum(gate, 7)
        return gate / (1 + np.exp(-1.702 * gate)) * (np.clip(up, -7, 7) + 1)
    if activation is Activation.GELU:
        return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up
    if activation is Activation.GELU_ERF:
        return 0.5 * gate * np.vectorize(math.erfc)(-gate / math.sqrt(2)) * up
    if activation is Activation.RELU2:
        return np.maximum(gate, 0) ** 2 * up
    return gate / (1 + np.exp(-gate)) * up


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def routed(logits: Array, spec: MoeSpec, bias: Array | None) -> list[tuple[int, float]]:
    """The experts that one token chooses, and their weights."""
    scores = np.exp(logits - logits.max())
    scores = {
        Gating.SOFTMAX: scores / scores.sum(),
        Gating.SIGMOID: sigmoid(logits),
        Gating.SOFTMAX_CHOSEN: logits,
        Gating.SQRT_SOFTPLUS: np.sqrt(np.log1p(np.exp(logits))),
    }[spec.gating]
    ranks = scores + (0 if bias is None else bias)
    experts = list(range(spec.experts))
    if spec.n_groups > 1:
        each = spec.experts // spec.n_groups
        worth = [sum(sorted(ranks[group * each : (group + 1) * each])[-2:]) for group in range(spec.n_groups)]
        best = sorted(range(spec.n_groups), key=lambda group: -worth[group])[: spec.groups_used]
        experts = [expert for expert in experts if expert // each in best]
    chosen = sorted(experts, key=lambda expert: -ranks[expert])[: spec.used]
    weights = scores[chosen]
    if spec.gating is Gating.SOFTMAX_CHOSEN:
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
    if spec.normalize:
        weights = weights / max(weights.sum(), 2.0**-14)
    return list(zip(chosen, weights * spec.scale, strict=True))


def rotated(x: Array, rope: RopeSpec) -> Array:
    """x (tokens, heads, size) at positions 0, 1, …; without scaling."""
    assert rope.scaling == "none", "tests of scalings compare with transformers"
    half = rope.dim // 2
    angles = np.arange(len(x))[:, None] * rope.base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = (
        (slice(0, rope.dim, 2), slice(1, rope.dim, 2)) if rope.interleaved else (slice(0, half), slice(half, rope.dim))
    )
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


class _Layer:
    def __init__(self, model: ModelSpec, spec: LayerSpec, weights: Weights, index: int) -> None:
        self._model, self._spec, self._weights, self._index = model, spec, weights, index

    def forward(self, x: Array) -> Array:
        h = self._norm(x, Role.ATTN_NORM) if self._spec.pre_norm else x
        mixed = self._finish(self._attention(h), Role.POST_ATTN_NORM)
        if self._spec.parallel:
            return x + mixed + self._finish(self._mlp(h), Role.POST_FFN_NORM)
        x = x + mixed
        h = self._norm(x, Role.FFN_NORM) if self._spec.pre_norm else x
        return x + self._finish(self._mlp(h), Role.POST_FFN_NORM)

    def _attention(self, h: Array) -> Array:
        spec = self._spec.mixer
        q, k = self._linear(Role.Q, h), self._linear(Role.K, h)
        q, k = self._normed(Role.Q_NORM, q, spec), self._normed(Role.K_NORM, k, spec)
        q, k = q.reshape(len(h), -1, spec.key_size), k.reshape(len(h), -1, spec.key_size)
        v = self._linear(Role.V, h).reshape(len(h), -1, spec.value_size)
        if spec.rope is not None:
            q, k = rotated(q, spec.rope), rotated(k, spec.rope)
        k, v = (np.repeat(one, spec.n_heads // spec.n_kv_heads, axis=1) for one in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * spec.score_scale
        if spec.soft_cap is not None:
            scores = capped(scores, spec.soft_cap)
        back = np.arange(len(h))[:, None] - np.arange(len(h))
        scores = np.where((back < 0) | (back >= (spec.window or len(h))), -np.inf, scores)
        if spec.has_sinks:
            sinks = self._get(Role.SINKS)[:, None, None]
            scores = np.concatenate([scores, np.broadcast_to(sinks, (*scores.shape[:2], 1))], axis=2)
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares = (shares / shares.sum(axis=2, keepdims=True))[..., : len(h)]
        return self._linear(Role.O, np.einsum("hqk,khd->qhd", shares, v).reshape(len(h), -1))

    def _mlp(self, h: Array) -> Array:
        spec = self._spec.mlp
        if isinstance(spec, MlpSpec):
            return self._dense(h, spec, Role.GATE, Role.UP, Role.DOWN)
        out = np.stack([self._token_of_mixture(token, spec) for token in h])
        if spec.shared is None:
            return out
        shared = self._dense(h, spec.shared, Role.SHARED_GATE, Role.SHARED_UP, Role.SHARED_DOWN)
        return out + (shared * sigmoid(h @ self._get(Role.SHARED_SCALE))[:, None] if spec.has_shared_gate else shared)

    def _dense(self, h: Array, spec: MlpSpec, gate_role: Role, up_role: Role, down_role: Role) -> Array:
        up = self._linear(up_role, h)
        gate, up = (self._linear(gate_role, h), up) if spec.has_gate else (up, np.ones_like(up))
        return self._linear(down_role, activate(spec.activation, gate, up))

    def _token_of_mixture(self, token: Array, spec: MoeSpec) -> Array:
        out = np.zeros_like(token)
        bias = self._get(Role.ROUTER_SELECTION) if spec.has_selection_bias else None
        for expert, weight in routed(self._linear(Role.ROUTER, token), spec, bias):
            h = token * weight if spec.weighs_input else token
            result = self._expert(h, spec.expert, expert)
            out += result if spec.weighs_input else result * weight
        return out

    def _expert(self, h: Array, spec: MlpSpec, expert: int) -> Array:
        def linear(role: Role, x: Array) -> Array:
            bias = self._weights.get(TensorKey(role, self._index, "bias"))
            return self._get(role)[expert].astype(np.float64) @ x + (0 if bias is None else bias[expert])

        up = linear(Role.EXPERT_UP, h)
        gate, up = (linear(Role.EXPERT_GATE, h), up) if spec.has_gate else (up, np.ones_like(up))
        return linear(Role.EXPERT_DOWN, activate(spec.activation, gate, up))

    def _normed(self, role: Role, x: Array, spec: AttentionSpec) -> Array:
        if spec.qk_norm is QkNorm.NONE:
            return x
        weight = self._get(role)
        return norm(x.reshape(len(x), -1, len(weight)), weight, self._model.norm_eps).reshape(x.shape)

    def _finish(self, change: Array, role: Role) -> Array:
        return (self._norm(change, role) if self._spec.post_norm else change) * self._model.residual_scale

    def _norm(self, x: Array, role: Role) -> Array:
        return norm(x, self._get(role), self._model.norm_eps)

    def _linear(self, role: Role, x: Array) -> Array:
        bias = self._weights.get(TensorKey(role, self._index, "bias"))
        return x @ self._get(role).T.astype(np.float64) + (0 if bias is None else bias)

    def _get(self, role: Role) -> Array:
        return self._weights[TensorKey(role, self._index)]
