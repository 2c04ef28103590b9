"""Explains what is about to run: the plan with its buffers and its traffic."""

from __future__ import annotations

from dataclasses import replace

from rowspan.comm.shared import SharedLayout
from rowspan.engine.blueprint import Blueprint
from rowspan.kernels.isa import is_native, native_module
from rowspan.plan.explain import Explanation, explain
from rowspan.plan.fit import activation_bytes
from rowspan.plan.routes import Transport
from rowspan.plan.traffic import traffic


def describe(blueprint: Blueprint) -> Explanation:
    """The table and notes of a blueprint, as data."""
    plan, routes = blueprint.plan, blueprint.routes
    explanation = explain(
        plan,
        blueprint.sizes,
        blueprint.cache,
        blueprint.cache_layout,
        routes,
        traffic(plan, routes, blueprint.checkpoint.tensors, blueprint.lead.dtype),
        _buffers(blueprint),
    )
    if all(shard.device.kind == "cpu" for shard in plan.shards):
        return explanation
    most = blueprint.cache.most_blocks * blueprint.config.block_size
    note = f"On cards the cache takes what is free once weights are loaded, up to {most} tokens."
    return replace(explanation, notes=(*explanation.notes, note))


def _buffers(blueprint: Blueprint) -> list[int]:
    """Bytes of each rank's buffers for computing, and of the shared memory that it writes to. NCCL's own buffers are
    not known.
    """
    plan, native = blueprint.plan, native_module()
    tokens, outputs = blueprint.config.token_budget, min(blueprint.config.token_budget, blueprint.config.parallel)
    used = [
        activation_bytes(plan, shard, tokens, outputs, gate_is_written=not is_native(kernels.cpu_isa))
        for shard, kernels in zip(plan.shards, blueprint.kernels, strict=True)
    ]
    if native is None or not {Transport.SHARED, Transport.HOST} & set(blueprint.routes.transports):
        return used
    layout = SharedLayout.of(native, plan, tokens)
    return [own + layout.written_by(native, plan, shard) for own, shard in zip(used, plan.shards, strict=True)]
