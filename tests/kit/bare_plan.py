"""Plans of ranks that hold nothing of a model but their part of the vocabulary."""

from __future__ import annotations

from rowspan.model.spec import ModelSpec, RopeSpec
from rowspan.plan.device import Device
from rowspan.plan.split import Plan, Shard, Span, SplitMode

SPEC = ModelSpec(
    architecture="llama",
    name="Bare",
    n_layers=2,
    hidden_size=1024,
    n_heads=1,
    n_kv_heads=1,
    head_dim=1024,
    ffn_size=1024,
    vocab_size=4096,
    context_length=1024,
    norm_eps=1e-5,
    rope=RopeSpec(dim=1024, base=1e4, interleaved=True),
    sliding_window=None,
    tied_embeddings=True,
)


def plan_of(*rows_per_stage: int, kind: str = "cpu", first: int = 0) -> Plan:
    """Stages of rows, each on a device of its own. Args: first: index of the first device."""
    none = Span(0, 0)
    shards = []
    for stage, n_rows in enumerate(rows_per_stage):
        for row in range(n_rows):
            rank = len(shards)
            shards.append(Shard(rank, Device(kind, first + rank), stage, row, none, none, none, Span(0, 1024)))
    return Plan(SplitMode.ROW, SPEC, tuple(shards))
