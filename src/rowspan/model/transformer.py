"""The transformer of llama, mistral, qwen2 and qwen3: plain math on one rank's shard.

The lines with `comm` are all there is to distribution: what passes between stages, a sum after the embedding, after o
and after down, and the gathering of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from rowspan.comm.base import Comm
from rowspan.kernels.ops import Array, Kernels, LayerCache
from rowspan.model.weights import LayerWeights, ModelWeights, Projection, Projections
from rowspan.plan.split import Plan, Shard, Span


@dataclass(frozen=True)
class Transformer(Generic[Array]):
    plan: Plan
    shard: Shard
    weights: ModelWeights
    caches: Sequence[LayerCache]
    rope: Any
    kernels: Kernels[Array]
    comm: Comm[Array]

    def forward(self, inputs: Any) -> Array | None:
        """This rank's part of a step: logits of the wanted rows (N, vocabulary) on the output rank, None on others.

        The last layer of all computes the keys and values of all tokens, and everything else of the wanted rows only:
        none of a prompt's but its last one. Of 30 layers that is a thirtieth of reading a prompt.
        """
        last = self.weights.layers[-1] if self.comm.after is None else None
        x, change = self._enter(inputs), None  # a layer's last change is added where the next one's norm is taken
        for layer, cache in zip(self.weights.layers, self.caches, strict=True):
            normed, x = self._add_norm(x, change, layer.attn_norm)
            if layer is last:
                x = self.kernels.gather_output_rows(x, inputs)
            change = self._attention(layer, normed, cache, inputs, outputs_only=layer is last)
            normed, x = self._add_norm(x, change, layer.ffn_norm)
            change = self._mlp(layer, normed)
        x = x if change is None else self.kernels.add(x, change)
        if self.comm.after is not None:
            self.comm.after.send(x)
            return None
        return self._logits(x)

    def _enter(self, inputs: Any) -> Array:
        """Hidden states (T, hidden) of the tokens, or of the stage before."""
        if self.comm.before is not None:
            return self.comm.before.receive((len(inputs.tokens), self.plan.spec.hidden_size))
        assert self.weights.embedding is not None, "the first stage has it"
        part = self.kernels.embedding(self.weights.embedding, inputs)
        return self.comm.group.all_reduce(part, len(self.shard.vocab) > 0)

    def _attention(self, layer: LayerWeights, x: Array, cache: LayerCache, inputs: Any, *, outputs_only: bool) -> Array:
        spec = self.plan.spec
        q, k, v = self._project_all(x, layer.qkv)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        q = self.kernels.rope_and_cache(q, k, v, self.rope, spec.head_dim, cache, inputs)
        if outputs_only:
            q, inputs = self.kernels.gather_output_rows(q, inputs), self.kernels.outputs_only(inputs)
        mixed = self.kernels.attention(q, cache, inputs, spec.sliding_window)
        return self._add_up(mixed, layer.o, self.shard.kv_heads)

    def _mlp(self, layer: LayerWeights, x: Array) -> Array:
        hidden = self.kernels.gated_silu(*self._project_all(x, layer.gate_up))
        return self._add_up(hidden, layer.down, self.shard.ffn)

    def _logits(self, x: Array) -> Array | None:
        assert self.weights.final_norm is not None, "only the last stage has a head"
        part = self.kernels.logits(self._norm(x, self.weights.final_norm), self.weights.head)
        return self.comm.group.gather_columns(part, [len(peer.vocab) for peer in self.plan.stage(self.shard.stage)])

    def _add_up(self, x: Array, projection: Projection, held: Span) -> Array:
        """A projection of which every rank of the stage holds some columns, or none: then it adds its bias at most."""
        contributes = len(held) > 0 or projection.bias is not None
        return self.comm.group.all_reduce(self._project(x, projection), contributes)

    def _project_all(self, x: Array, projections: Projections) -> Sequence[Array]:
        if projections.joined is None:
            return [self._project(x, part) for part in projections.parts]
        return self.kernels.split_columns(self._project(x, projections.joined), projections.widths)

    def _project(self, x: Array, projection: Projection) -> Array:
        return self.kernels.linear(x, projection.weight, projection.bias)

    def _add_norm(self, x: Array, change: Array | None, weight: Any) -> tuple[Array, Array]:
        if change is None:
            return self._norm(x, weight), x
        return self.kernels.add_rms_norm(x, change, weight, self.plan.spec.norm_eps)

    def _norm(self, x: Array, weight: Any) -> Array:
        return self.kernels.rms_norm(x, weight, self.plan.spec.norm_eps)
