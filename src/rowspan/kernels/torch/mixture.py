"""Mixtures of experts in plain torch: one expert after the other, each for the tokens that chose it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rowspan.kernels.ops import Experts, Weight
from rowspan.kernels.torch import small_ops
from rowspan.kernels.torch.linear import linear
from rowspan.model.spec import MoeSpec

LEAST_SUM = 6.103515625e-5  # the smallest normal float16: weights that are almost zero are not blown up by normalizing


@dataclass(frozen=True)
class ExpertMatrices:
    """One matrix of each expert held."""

    matrices: Sequence[Weight]

    @property
    def rows(self) -> int:
        return self.matrices[0].rows

    @property
    def columns(self) -> int:
        return self.matrices[0].columns

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    def linear(self, x: Tensor, expert: int, biases: Tensor | None) -> Tensor:
        bias = None if biases is None else biases.view(len(self.matrices), -1)[expert]
        return linear(x, self.matrices[expert], bias)


def route(logits: Tensor, spec: MoeSpec, selection_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The experts that each token chooses, best first, and their weights in float32: (T, used) of both.

    Sources: softmax, Shazeer et al. 2017 (https://arxiv.org/abs/1701.06538); sigmoid, selection bias and groups,
    DeepSeek-V3 (https://arxiv.org/abs/2412.19437).
    """
    scores = logits.float()
    match spec.gating:
        case "softmax":
            scores = scores.softmax(dim=-1)
        case "sigmoid":
            scores = scores.sigmoid()
        case "sqrt_softplus":
            scores = torch.nn.functional.softplus(scores).sqrt()
    ranks = scores if selection_bias is None else scores + selection_bias.float()
    if spec.n_groups > 1:
        ranks = _best_groups(ranks, spec)
    chosen = ranks.sort(dim=-1, descending=True, stable=True).indices[:, : spec.used]
    weights = scores.gather(1, chosen)
    if spec.gating == "softmax_chosen":
        weights = weights.softmax(dim=-1)
    if spec.normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=LEAST_SUM)
    return chosen, weights * spec.scale


def _best_groups(ranks: Tensor, spec: MoeSpec) -> Tensor:
    """Ranks with those outside of the best groups of experts lowered below all others. A group counts as much as its
    two best experts together.
    """
    groups = ranks.view(len(ranks), spec.n_groups, spec.experts // spec.n_groups)
    totals = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(dim=-1)
    best = totals.sort(dim=-1, descending=True, stable=True).indices[:, : spec.groups_used]
    kept = torch.zeros_like(totals, dtype=torch.bool).scatter(1, best, True)
    return groups.masked_fill(~kept[..., None], -torch.inf).view(ranks.shape)


def mixture(x: Tensor, logits: Tensor, experts: Experts, spec: MoeSpec) -> Tensor:
    """See `rowspan.kernels.ops.Kernels.mixture`."""
    chosen, weights = route(logits, spec, experts.selection_bias)
    if experts.scales is not None:
        weights = weights * experts.scales.float()[chosen]
    assert isinstance(experts.down, ExpertMatrices), "another kernels' layout"
    results = x.new_zeros(*chosen.shape, experts.down.rows)
    for held in range(len(experts.down.matrices)):
        tokens, places = (chosen == experts.first + held).nonzero(as_tuple=True)
        if len(tokens):
            results[tokens, places] = _expert(x[tokens], weights[tokens, places, None], experts, held, spec)
    total = results.new_zeros(len(x), experts.down.rows, dtype=torch.float32)
    for place in range(spec.used):  # in this order, whoever else is in the step
        part = results[:, place].float()
        total += part if spec.weighs_input else part * weights[:, place, None]
    return total.to(x.dtype)


def _expert(x: Tensor, weights: Tensor, experts: Experts, held: int, spec: MoeSpec) -> Tensor:
    gate, up, down = experts.gate, experts.up, experts.down
    assert isinstance(up, ExpertMatrices), "another kernels' layout"
    assert isinstance(down, ExpertMatrices), "another kernels' layout"
    if spec.weighs_input:
        x = (x.float() * weights).to(x.dtype)
    hidden = up.linear(x, held, experts.up_bias)
    if gate is None:
        hidden = small_ops.activate(hidden, spec.expert.activation)
    else:
        assert isinstance(gate, ExpertMatrices), "another kernels' layout"
        hidden = small_ops.gated(gate.linear(x, held, experts.gate_bias), hidden, spec.expert.activation)
    return down.linear(hidden, held, experts.down_bias)


def head_linear(x: Tensor, weight: Weight) -> Tensor:
    """See `rowspan.kernels.ops.Kernels.head_linear`."""
    assert isinstance(weight, ExpertMatrices), "another kernels' layout"
    if not weight.matrices or not len(x):
        return x.new_empty(len(x), len(weight.matrices) * weight.rows if weight.matrices else 0)
    heads = x.view(len(x), len(weight.matrices), -1)
    return torch.cat([weight.linear(heads[:, head], head, None) for head in range(len(weight.matrices))], dim=1)
