"""A model of any family: plain math on one rank's shard. Its layers are data: see `rowspan.model.spec`.

Only the lines with `comm` deal with distribution: hidden states passed between stages, all-reduces after the embedding,
after o and after down, and the gathering of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from rowspan.comm.base import Comm
from rowspan.kernels.ops import Array, AttentionOptions, Kernels, LayerCache, Outputs
from rowspan.model.encoder import embedded, encoder_output
from rowspan.model.latent_attention import LatentWeights, latent_attention
from rowspan.model.mlp import MlpWeights, MoeWeights, OwnNorms, mlp, moe, route
from rowspan.model.norm import Norm, norm
from rowspan.model.position_tables import PositionTables
from rowspan.model.residual import Residual
from rowspan.model.spec import LayerSpec, MlpSpec, MoeSpec
from rowspan.model.weights import LayerWeights, ModelWeights
from rowspan.plan.shard import LayerCut, Plan, Shard


@dataclass(frozen=True)
class Transformer(Generic[Array]):
    """The layers of one rank's stage. caches: the KV caches of these layers, in order."""

    plan: Plan
    shard: Shard
    weights: ModelWeights
    caches: Sequence[LayerCache]
    positions: PositionTables
    kernels: Kernels[Array]
    comm: Comm[Array]

    def forward(self, inputs: Any) -> Outputs[Array] | None:
        """Compute this rank's part of a step: logits and hidden states of the output rows on the output rank, None on
        others.

        The model's last layer computes keys and values of all tokens, but everything else only of the output rows: of a
        prompt, as a rule, only its last token. In a model of 30 layers that saves a thirtieth of a prompt's work.
        """
        x = Residual(self.kernels, self._enter(inputs), self.plan.spec)
        held = zip(self.plan.spec.layers[self.shard.layers.as_slice()], self.shard.cuts, strict=True)
        for (spec, cut), weights, cache in zip(held, self.weights.layers, self.caches, strict=True):
            last = self.comm.after is None and weights is self.weights.layers[-1]
            _Layer(self, spec, cut, weights, cache).forward(x, inputs, outputs_only=last)
        if self.comm.after is not None:
            self.comm.after.send(x.value())
            return None
        hidden = x.value() if self.weights.final_norm is None else x.norm(self.weights.final_norm)
        if self.weights.encoder is not None:
            is_output = self.shard.rank == self.plan.output_rank
            return Outputs(None, encoder_output(self.kernels, hidden, self.weights.encoder)) if is_output else None
        logits = self._logits(self.kernels.gather_logit_rows(hidden, inputs))
        return None if logits is None else Outputs(logits, hidden)

    def _enter(self, inputs: Any) -> Array:
        """Hidden states (T, hidden): the tokens' embeddings, or those received from the stage before."""
        if self.comm.before is not None:
            return self.comm.before.receive((len(inputs.tokens), self.plan.spec.hidden_size))
        assert self.weights.embedding is not None, "the first stage has it"
        part = self.kernels.embedding(self.weights.embedding, inputs)
        whole = self.comm.group.all_reduce(part, len(self.shard.vocab) > 0)
        whole = scaled(self.kernels, whole, self.plan.spec.embedding_scale)
        return embedded(self.kernels, whole, self.weights.encoder, self.plan.spec, inputs)

    def _logits(self, hidden: Array) -> Array | None:
        """Of hidden states (L, hidden) after the final norm."""
        spec = self.plan.spec
        part = self.kernels.logits(hidden, self.weights.head)
        part = scaled(self.kernels, part, spec.logit_scale)
        if spec.final_soft_cap is not None:
            part = self.kernels.soft_cap(part, spec.final_soft_cap)
        return self.comm.group.gather_columns(part, [len(peer.vocab) for peer in self.plan.stage(self.shard.stage)])


@dataclass(frozen=True)
class _Layer(Generic[Array]):
    """One layer of a rank."""

    model: Transformer[Array]
    spec: LayerSpec
    cut: LayerCut
    weights: LayerWeights
    cache: LayerCache

    def forward(self, x: Residual[Array], inputs: Any, *, outputs_only: bool) -> None:
        """Add the layer's results to the hidden states.

        Args:
            outputs_only: only the KV cache and the output rows are needed from here on.
        """
        weights, kernels = self.weights, self.model.kernels
        normed = self._norm(x, weights.attn_norm)
        if outputs_only:
            x.select(inputs)
        mixed = self._finish(self._attention(normed, inputs, outputs_only=outputs_only), weights.post_attn_norm)
        if self.spec.parallel:
            normed = kernels.gather_output_rows(normed, inputs) if outputs_only else normed
            x.add(mixed)
        else:
            x.add(mixed)
            if self.spec.norms_sum and weights.post_attn_norm is not None:
                x.replace_by_norm(weights.post_attn_norm)
            normed = self._norm(x, weights.ffn_norm)
        x.add(self._finish(self._mlp(normed, x), weights.post_ffn_norm))
        if self.spec.norms_sum and weights.post_ffn_norm is not None:
            x.replace_by_norm(weights.post_ffn_norm)
        x.scale(weights.output_scale)

    def _attention(self, x: Array, inputs: Any, *, outputs_only: bool) -> Array:
        kernels, spec, o = self.model.kernels, self.spec.mixer, self.weights.o
        contributes = len(self.cut.heads) > 0 or o.bias is not None
        if self.weights.latent is not None:
            mixed = self._latent_attention(x, self.weights.latent, inputs, outputs_only=outputs_only)
            return self._all_reduce(o.of(kernels, mixed), contributes)
        assert self.weights.qkv is not None, "such layers have them"
        q, k, *values = self.weights.qkv.of(kernels, x)
        v = values[0] if values else k
        if self.weights.q_norm is not None:
            eps = self.model.plan.spec.norm_eps
            q, k = kernels.rms_norm(q, self.weights.q_norm, eps), kernels.rms_norm(k, self.weights.k_norm, eps)
        if self.weights.v_norm is not None:
            v = kernels.rms_norm(v, self.weights.v_norm, self.model.plan.spec.norm_eps)
        positions = self.model.positions
        if spec.temperature is not None:
            q = kernels.scale_by_position(q, positions.temperatures[spec.temperature], inputs)
        table = None if spec.rope is None else positions.ropes[spec.rope]
        q = kernels.rope_and_cache(q, k, v, table, self.cache, inputs)
        if outputs_only:
            q, inputs = kernels.gather_output_rows(q, inputs), kernels.outputs_only(inputs)
        options = AttentionOptions(spec.scale, spec.window, spec.soft_cap, self.model.plan.spec.causal)
        mixed = kernels.attention(q, self.cache, inputs, options, self.weights.sinks)
        return self._all_reduce(o.of(kernels, mixed), contributes)

    def _latent_attention(self, x: Array, weights: LatentWeights, inputs: Any, *, outputs_only: bool) -> Array:
        model, spec = self.model, self.spec.mixer
        table = None if spec.rope is None else model.positions.ropes[spec.rope]
        return latent_attention(
            model.kernels,
            x,
            weights,
            spec,
            len(self.cut.heads),
            model.plan.spec.norm_eps,
            table,
            self.cache,
            inputs,
            outputs_only=outputs_only,
        )

    def _mlp(self, normed: Array, x: Residual[Array]) -> Array:
        kernels, weights, spec = self.model.kernels, self.weights.mlp, self.spec.mlp
        if isinstance(weights, MlpWeights):
            assert isinstance(spec, MlpSpec), "weights are loaded as the layer describes them"
            return self._all_reduce(mlp(kernels, normed, weights, spec), self.cut.has_mlp or weights.has_bias)
        assert isinstance(spec, MoeSpec), "weights are loaded as the layer describes them"
        if weights.norms is not None:
            return self._side_by_side(normed, x, weights, spec, weights.norms)
        return self._all_reduce(moe(kernels, normed, weights, spec), self.cut.has_mlp or weights.has_bias)

    def _side_by_side(
        self, normed: Array, x: Residual[Array], weights: MoeWeights, spec: MoeSpec, norms: OwnNorms
    ) -> Array:
        """The shared MLP, and the experts beside it."""
        assert weights.shared is not None, "there is something to be beside"
        assert spec.shared is not None, "there is something to be beside"
        kernels, model, hidden = self.model.kernels, self.model.plan.spec, x.value()
        shared = self._all_reduce(mlp(kernels, normed, weights.shared, spec.shared), len(self.cut.shared) > 0)
        logits = route(kernels, norm(kernels, hidden, norms.router, model), weights.router)
        inputs = norm(kernels, hidden, norms.before_experts, model)
        routed = self._all_reduce(kernels.mixture(inputs, logits, weights.experts, spec), len(self.cut.experts) > 0)
        return kernels.add(
            norm(kernels, shared, norms.after_shared, model), norm(kernels, routed, norms.after_experts, model)
        )

    def _norm(self, x: Residual[Array], weights: Norm | None) -> Array:
        return x.value() if weights is None else x.norm(weights)

    def _finish(self, change: Array, post_norm: Norm | None) -> Array:
        """Turn the result of a mixer or an MLP into what is added to the hidden states."""
        model = self.model.plan.spec
        if self.spec.post_norm and post_norm is not None:
            change = norm(self.model.kernels, change, post_norm, model)
        return scaled(self.model.kernels, change, model.residual_scale)

    def _all_reduce(self, part: Array, contributes: bool) -> Array:
        """The sum of all ranks' parts. A rank without columns contributes its bias at most."""
        return self.model.comm.group.all_reduce(part, contributes)


def scaled(kernels: Kernels[Array], x: Array, factor: float) -> Array:
    return x if factor == 1.0 else kernels.scale(x, factor)
