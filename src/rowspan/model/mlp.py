"""The MLP of a layer, dense or a mixture of experts: weights, and what a rank's part of them adds."""

from __future__ import annotations

from dataclasses import dataclass

from rowspan.kernels.ops import Array, Experts, Kernels, Weight
from rowspan.model.norm import Norm
from rowspan.model.projection import Projection, Projections
from rowspan.model.spec import MlpSpec, MoeSpec


@dataclass(frozen=True)
class MlpWeights:
    """gate_up: only up, in an MLP without a gate."""

    gate_up: Projections
    down: Projection

    @property
    def has_bias(self) -> bool:
        return self.down.bias is not None


@dataclass(frozen=True)
class OwnNorms:
    """Of the router's input, of the experts' input and result, and of the shared MLP's result: see
    `MoeSpec.is_beside`.
    """

    router: Norm
    before_experts: Norm
    after_experts: Norm
    after_shared: Norm


@dataclass(frozen=True)
class MoeWeights:
    """shared: the MLP shared by all tokens. shared_gate: one row, or None."""

    router: Projection
    experts: Experts
    shared: MlpWeights | None
    shared_gate: Weight | None
    norms: OwnNorms | None = None

    @property
    def has_bias(self) -> bool:
        return self.experts.down_bias is not None or (self.shared is not None and self.shared.has_bias)


def mlp(kernels: Kernels[Array], x: Array, weights: MlpWeights, spec: MlpSpec) -> Array:
    """The part of the MLP's result for x (T, hidden) that this rank's columns make; ranks' parts add up to it."""
    if spec.has_gate:
        gate, up = weights.gate_up.of(kernels, x)
        return weights.down.of(kernels, kernels.gated(gate, up, spec.activation))
    (up,) = weights.gate_up.of(kernels, x)
    return weights.down.of(kernels, kernels.activate(up, spec.activation))


def moe(kernels: Kernels[Array], x: Array, weights: MoeWeights, spec: MoeSpec) -> Array:
    """The part of the mixture's result for x (T, hidden) that this rank's part of the experts makes. Every rank holds
    the whole router, and chooses alike.
    """
    result = kernels.mixture(x, route(kernels, x, weights.router), weights.experts, spec)
    if weights.shared is None or spec.shared is None:
        return result
    shared = mlp(kernels, x, weights.shared, spec.shared)
    if weights.shared_gate is not None:
        shared = kernels.gate_rows(shared, kernels.linear(x, weights.shared_gate))
    return kernels.add(result, shared)


def route(kernels: Kernels[Array], x: Array, router: Projection) -> Array:
    """The router's logits for x (T, hidden): (T, experts)."""
    return kernels.logits(x, router.weight) if router.bias is None else router.of(kernels, x)
