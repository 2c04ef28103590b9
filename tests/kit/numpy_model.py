"""Any dense decoder in plain NumPy and float64, written from the descriptions of `rowspan.model.spec` and from papers:
slow, for one sequence, with nothing cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import Activation, AttentionSpec, LayerSpec, MlpSpec, ModelSpec, QkNorm, RopeSpec

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
    if activation is Activation.RELU2:
        return np.maximum(gate, 0) ** 2 * up
    return gate / (1 + np.exp(-gate)) * up


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
        assert isinstance(spec, MlpSpec)
        up = self._linear(Role.UP, h)
        gate, up = (self._linear(Role.GATE, h), up) if spec.has_gate else (up, np.ones_like(up))
        return self._linear(Role.DOWN, activate(spec.activation, gate, up))

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
