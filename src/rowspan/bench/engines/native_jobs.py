"""Jobs of Rowspan's own engine, in process."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rowspan.bench.engines.model_facts import ModelFacts, model_facts
from rowspan.bench.engines.native_runner import NativeRunner
from rowspan.bench.engines.split_check import Checker
from rowspan.bench.grid import Grid, Workload, longest, most_concurrent
from rowspan.bench.job import Job
from rowspan.bench.model_demand import Demand
from rowspan.checkpoint.open import open_checkpoint
from rowspan.config import CACHE_TYPES, TENSOR_CACHE_TYPES, EngineConfig
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.errors import ContextOverflowError
from rowspan.model.spec import ModelSpec

WORKER_BYTES = 300 << 20  # a worker's own, beside weights and cache


def native_jobs(models: Mapping[Path, str | None], grid: Grid, work: Sequence[Workload]) -> list[Job]:
    """Of every configuration of a grid.

    Args:
        models: files, and the checksum of each where it is known.

    Raises:
        RowspanError: a configuration cannot work.
    """
    jobs = []
    for path, sha256 in models.items():
        facts, demand, spec = gguf_facts(path, sha256)
        check_context(longest(work), spec)
        configurations = grid.configurations([path], longest(work).context, most_concurrent(work))
        jobs += [native_job(config, facts, demand) for config in configurations]
    return jobs


def native_job(config: EngineConfig, model: ModelFacts, demand: Demand | None, checker: Checker | None = None) -> Job:
    """Of one configuration; compared with a single device first, if there is a checker. Raises RowspanError: it cannot
    work."""
    blueprint = make_blueprint(config)
    checked = checker.check(config).fields() if checker is not None else {}
    cache = blueprint.cache.n_blocks * config.block_size * sum(size.cache_per_token for size in blueprint.sizes)
    return Job(
        label=f"native {config.model_path.name} {config.split_mode} {','.join(map(str, config.devices))}",
        fields={**model.fields(), **_engine_fields(blueprint), **_option_fields(blueprint), **checked},
        start=partial(NativeRunner, blueprint),
        memory_bytes=sum(size.weights + WORKER_BYTES for size in blueprint.sizes) + cache,
        devices=tuple(dict.fromkeys(shard.device for shard in blueprint.plan.shards)),
        demand=demand,
    )


def gguf_facts(path: Path, sha256: str | None = None) -> tuple[ModelFacts, Demand, ModelSpec]:
    """What rows say of a file, the least work of its tokens, and its shape. Raises RowspanError: it cannot be read."""
    checkpoint = open_checkpoint(path)
    spec = ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
    facts = model_facts(checkpoint, spec, sha256), Demand.of(spec, checkpoint.tensors), spec
    checkpoint.close()
    return facts


def check_context(most: Workload, spec: ModelSpec) -> None:
    """Raise ContextOverflowError if the model is not made for so much."""
    if most.context > spec.context_length:
        raise ContextOverflowError(
            f"{most.name} needs a context of {most.context} tokens.",
            why=f"{spec.name} was made for {spec.context_length}.",
            fix="Use a smaller -p, -n, -pg or -d.",
        )


def _engine_fields(blueprint: Blueprint) -> dict[str, Any]:
    return {
        "build_commit": "unknown",
        "build_number": 0,
        "engine": "native",
        "engine_version": importlib.metadata.version("rowspan"),
        "torch_version": importlib.metadata.version("torch"),
        "kernels": blueprint.lead.cpu_isa,
    }


def _option_fields(blueprint: Blueprint) -> dict[str, Any]:
    config, plan = blueprint.config, blueprint.plan
    cache_names = {dtype: name for types in (CACHE_TYPES, TENSOR_CACHE_TYPES) for name, dtype in types.items()}
    ratios = config.tensor_split or (0.0,)  # llama-bench's way to say that none was given
    return {
        "backends": ",".join(sorted({shard.device.kind.upper() for shard in plan.shards})),
        "n_batch": config.token_budget,
        "n_ubatch": config.token_budget,
        "n_threads": sum(setup.threads for setup in blueprint.setups()),
        "type_k": cache_names[blueprint.lead.cache_dtypes[0]],
        "type_v": cache_names[blueprint.lead.cache_dtypes[1]],
        "n_gpu_layers": len(
            {n for s in plan.shards if s.device.kind != "cpu" for n in range(s.layers.start, s.layers.stop)}
        ),
        "split_mode": config.split_mode.value,
        "main_gpu": config.main_gpu,
        "flash_attn": 1,  # the native attention never holds a whole row of scores, and there is no other
        "devices": "/".join(str(device) for device in config.devices),
        "tensor_split": "/".join(f"{ratio:.2f}" for ratio in ratios),
        "dtype": blueprint.lead.dtype,
    }
