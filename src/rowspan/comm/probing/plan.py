"""Makes a plan without a model, by which transports are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rowspan.model.spec import ModelSpec
from rowspan.plan.device import Device
from rowspan.plan.shard import Plan, Shard, Span
from rowspan.plan.split_mode import SplitMode

HIDDEN, VOCABULARY = 4096, 1024  # floats that ranks sum and hand over for each token; logits of each rank
SPEC = ModelSpec(
    architecture="none",
    name="no model",
    hidden_size=HIDDEN,
    vocab_size=VOCABULARY,
    context_length=0,
    norm_eps=0.0,
    layers=(),
    tied_embeddings=True,
)


def bare_plan(stages: Sequence[Sequence[Device]]) -> Plan:
    """A plan for ranks on these devices, which hold no layers."""
    none, vocabulary = Span(0, 0), Span(0, VOCABULARY)
    places = [
        (stage, tp_rank, device) for stage, devices in enumerate(stages) for tp_rank, device in enumerate(devices)
    ]
    shards = (
        Shard(rank, device, stage, tp_rank, none, vocabulary, ())
        for rank, (stage, tp_rank, device) in enumerate(places)
    )
    return Plan(SplitMode.ROW, SPEC, tuple(shards))


def part_on(plan: Plan, host: int) -> Plan:
    """The part of a plan over several hosts that one host can try alone: its own stages, in their order, without a
    model.
    """
    if not any(shard.device.host for shard in plan.shards):
        return plan
    stages = [plan.stage(stage) for stage in range(plan.n_stages) if plan.stage(stage)[0].device.host == host]
    return bare_plan([[replace(shard.device, host=0) for shard in stage] for stage in stages])
