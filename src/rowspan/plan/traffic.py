"""Computes from the plan how many bytes each rank sends to its group and over its link."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.plan.fit import DTYPE_BYTES
from rowspan.plan.routes import Route, Routes, Transport
from rowspan.plan.shard import Plan, Shard

FLOAT = 4  # every transport but NCCL carries float32, whatever is computed with


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends.

    sums, hand_over: per token, in all-reduces and to the next stage.
    output_sums, logits: per sampled token only, in the all-reduces of the model's last layer, and of its head's logits.
    """

    sums: int = 0
    hand_over: int = 0
    output_sums: int = 0
    logits: int = 0

    def sent(self, tokens: int, outputs: int = 1) -> int:
        """Bytes sent for steps with `tokens` tokens altogether, `outputs` of which are sampled."""
        return tokens * (self.sums + self.hand_over) + outputs * (self.output_sums + self.logits)


def traffic(plan: Plan, routes: Routes, tensors: Container[TensorKey], dtype: str) -> tuple[Traffic, ...]:
    """The traffic of every rank.

    A rank that contributes to an all-reduce sends its hidden states: after the embedding, after each layer's o and
    after its down. The leader of a stage sends them on, once for all receivers; from host to host it sends them to the
    next leader, which shares them by an all-reduce. In the last stage all ranks but the first send their logits.

    Args:
        tensors: the checkpoint's tensors: a bias makes the rank that holds it contribute.
        dtype: type of the hidden states.
    """
    return tuple(_of(plan, shard, routes, tensors, dtype) for shard in plan.shards)


def _of(plan: Plan, shard: Shard, routes: Routes, tensors: Container[TensorKey], dtype: str) -> Traffic:
    group = routes.groups[shard.stage]
    hidden = plan.spec.hidden_size
    last = shard.stage == plan.n_stages - 1
    sums = output_sums = logits = hand_over = 0
    if group is not None:
        # NCCL sums two cards' hidden states in their own type, and more cards' as float32: comm/nccl.py.
        wide = FLOAT if len(plan.stage(shard.stage)) > 2 else _element(group, dtype)
        shares = shard.stage > 0 and not shard.tp_rank and routes.links[shard.stage - 1].transport is Transport.GLOO
        layers = shard.layers
        first_output = layers.stop - 1 if last else layers.stop  # layer
        start = shard.stage == 0 and len(shard.vocab) > 0
        sums = (start + shares + _contributions(plan, shard, tensors, layers.start, first_output)) * hidden * wide
        output_sums = _contributions(plan, shard, tensors, first_output, layers.stop) * hidden * wide
        logits = len(shard.vocab) * _element(group, dtype) if last and shard.tp_rank else 0
    if not last and not shard.tp_rank:
        hand_over = hidden * _element(routes.links[shard.stage], dtype)
    return Traffic(sums, hand_over, output_sums, logits)


def _contributions(plan: Plan, shard: Shard, tensors: Container[TensorKey], start: int, stop: int) -> int:
    """Number of all-reduces in these layers to which a rank contributes."""
    count = 0
    for layer in range(start, stop):
        cut = shard.cut_of(layer)
        for role, held in ((Role.O, len(cut.heads) > 0), (Role.DOWN, cut.has_mlp)):
            bias = TensorKey(role, layer, "bias")
            count += held or (bias in tensors and plan.cut(bias, shard) is not None)
    return count


def _element(route: Route, dtype: str) -> int:
    return DTYPE_BYTES[dtype] if route.transport is Transport.NCCL else FLOAT
