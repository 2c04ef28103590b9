"""Lines about memory for the start-up log: what the workers were predicted to take, what they take, what cards hold."""

from __future__ import annotations

from rowspan.engine.blueprint import Blueprint
from rowspan.engine.engine import Engine
from rowspan.kernels.isa import is_native
from rowspan.plan.resident import WorkerMemory, worker_memory


def predicted_memory(blueprint: Blueprint) -> WorkerMemory | None:
    """Predicted memory of all workers together; None if torch's allocator decides, or if some workers are on other
    hosts.
    """
    if not is_native(blueprint.lead.cpu_isa) or any(shard.device.host for shard in blueprint.plan.shards):
        return None
    metadata, config = blueprint.checkpoint.metadata, blueprint.config
    strings = sum(len(metadata.get(f"tokenizer.ggml.{name}", ())) for name in ("tokens", "merges"))
    total = WorkerMemory(0, 0)
    ranks = zip(blueprint.plan.shards, blueprint.sizes, blueprint.cache_bytes, strict=True)
    for shard, size, cache_bytes in ranks:
        total += worker_memory(
            blueprint.plan,
            shard,
            blueprint.checkpoint.tensors,
            size,
            cache_bytes=cache_bytes,
            strings=strings,
            step_tokens=config.token_budget,
            outputs=min(config.token_budget, config.parallel),
            context=blueprint.cache.context_size,
        )
    return total


def memory_line(blueprint: Blueprint) -> str | None:
    """A line that compares prediction and use, for after the workers have loaded; None if nothing was predicted."""
    from rowspan.bench.machine.peak_memory import peak_child_memory

    predicted, actual = predicted_memory(blueprint), peak_child_memory()
    if predicted is None or not actual:
        return None
    used, loaded, full = (size / 2**20 for size in (actual, predicted.loaded, predicted.full))
    return (
        f"Memory of the workers: {used:.0f} MiB, {loaded:.0f} MiB predicted ({used / loaded - 1:+.1%}); "
        f"up to {full:.0f} MiB with a full cache."
    )


def cards_line(engine: Engine) -> str | None:
    """A line about the cards' memory, for after the workers have loaded; None if no rank is on a card."""
    on_cards = [rank for rank in engine.ready if rank.on_card]
    if not on_cards:
        return None
    kernels = " and ".join(sorted({rank.kernels for rank in on_cards}))
    weights, cache = (
        sum(sizes) / 2**30 for sizes in zip(*((r.weight_bytes, r.cache_bytes) for r in on_cards), strict=True)
    )
    tokens = min(rank.n_blocks for rank in engine.ready) * engine.blueprint.config.block_size
    return (
        f"Cards: {kernels}'s kernels, {weights:.1f} GiB of weights, a cache of {tokens} tokens in {cache:.1f} GiB; "
        f"loaded in {max(rank.load_seconds for rank in on_cards):.1f} s."
    )
