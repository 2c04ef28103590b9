"""A plan without a model, to try transports with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rowspan.model.spec import ModelSpec, RopeSpec
from rowspan.plan.device import Device
from rowspan.plan.split import Plan, Shard, Span
from rowspan.plan.split_mode import SplitMode

HIDDEN, VOCABULARY = 4096, 1024  # floats that ranks sum and hand over for each token; logits of each rank
SPEC = ModelSpec(
    architecture="llama",
    name="none",
    n_layers=1,
    hidden_size=HIDDEN,
    n_heads=1,
    n_kv_heads=1,
    head_dim=HIDDEN,
    ffn_size=HIDDEN,
    vocab_size=VOCABULARY,
    context_length=1,
    norm_eps=1e-5,
    rope=RopeSpec(dim=HIDDEN, base=1e4, interleaved=True),
    sliding_window=None,
    tied_embeddings=True,
)


def bare_plan(stages: Sequence[Sequence[Device]]) -> Plan:
    """Ranks on these devices, which hold no layers."""
    none, vocabulary = Span(0, 0), Span(0, VOCABULARY)
    places = [
        (stage, tp_rank, device) for stage, devices in enumerate(stages) for tp_rank, device in enumerate(devices)
    ]
    shards = (
        Shard(rank, device, stage, tp_rank, none, none, none, vocabulary)
        for rank, (stage, tp_rank, device) in enumerate(places)
    )
    return Plan(SplitMode.ROW, SPEC, tuple(shards))


def part_on(plan: Plan, host: int) -> Plan:
    """What a host can try alone of a plan over several: its own stages, in their order, without a model."""
    if not any(shard.device.host for shard in plan.shards):
        return plan
    stages = [plan.stage(stage) for stage in range(plan.n_stages) if plan.stage(stage)[0].device.host == host]
    return bare_plan([[replace(shard.device, host=0) for shard in stage] for stage in stages])
