"""The transformer of llama, mistral, qwen2 and qwen3: plain math on one rank's shard.

The lines with `comm` are all there is to distribution: a sum after the embedding, after o and after down, and the
gathering of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rowspan.comm.base import Comm
from rowspan.kernels.ops import Kernels, LayerCache, RopeTable, StepInputs
from rowspan.model.weights import LayerWeights, ModelWeights, Projection
from rowspan.plan.split import Plan, Shard


@dataclass(frozen=True)
class Transformer:
    plan: Plan
    shard: Shard
    weights: ModelWeights
    rope: RopeTable
    kernels: Kernels
    comm: Comm
    dtype: torch.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (T,) → hidden states (T, hidden)."""
        assert self.weights.embedding is not None, "only the first stage embeds"
        part = self.kernels.embedding(tokens, self.weights.embedding, self.shard.vocab.start)
        return self.comm.all_reduce(part)

    def run_layers(self, x: Tensor, caches: Sequence[LayerCache], inputs: StepInputs) -> Tensor:
        """Hidden states (T, hidden) through this stage's layers."""
        angles = self.rope.at(inputs.positions)
        for layer, cache in zip(self.weights.layers, caches, strict=True):
            x = x + self._attention(layer, self._norm(x, layer.attn_norm), angles, cache, inputs)
            x = x + self._mlp(layer, self._norm(x, layer.ffn_norm))
        return x

    def logits(self, x: Tensor) -> Tensor | None:
        """Hidden states (N, hidden) → float32 logits (N, vocabulary) on the stage's row 0; None on other ranks."""
        assert self.weights.final_norm is not None, "only the last stage has a head"
        x = self._norm(x, self.weights.final_norm)
        part = self.kernels.linear(x, self.weights.head).float()
        return self.comm.gather_columns(part, [len(peer.vocab) for peer in self.plan.stage(self.shard.stage)])

    def _attention(
        self, layer: LayerWeights, x: Tensor, angles: RopeTable, cache: LayerCache, inputs: StepInputs
    ) -> Tensor:
        spec = self.plan.spec
        kv_shape = (x.shape[0], len(self.shard.kv_heads), spec.head_dim)
        q = self._project(x, layer.q).view(x.shape[0], len(self.shard.kv_heads) * spec.group, spec.head_dim)
        k = self._project(x, layer.k).view(kv_shape)
        v = self._project(x, layer.v).view(kv_shape)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        q = self.kernels.rope(q, angles)
        k = self.kernels.rope(k, angles)
        self.kernels.write_cache(cache, inputs.slots, k, v)
        mixed = self.kernels.attention(q, cache, inputs, spec.sliding_window)
        return self.comm.all_reduce(self._project(mixed, layer.o))

    def _mlp(self, layer: LayerWeights, x: Tensor) -> Tensor:
        hidden = self.kernels.gated_silu(self._project(x, layer.gate), self._project(x, layer.up))
        return self.comm.all_reduce(self._project(hidden, layer.down))

    def _project(self, x: Tensor, projection: Projection) -> Tensor:
        return self.kernels.linear(x, projection.weight, projection.bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, weight, self.plan.spec.norm_eps)
