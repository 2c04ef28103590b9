"""Makes jobs that run Rowspan's own engine without its server."""

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
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.errors import ContextOverflowError
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.model.spec import ModelSpec
from rowspan.quant.cache_types import cache_type

WORKER_BYTES = 300 << 20  # memory of a worker beside weights and KV cache


def native_jobs(models: Mapping[Path, str | None], grid: Grid, work: Sequence[Workload]) -> list[Job]:
    """One job for every configuration of a grid.

    Args:
        models: model files, each with its checksum if that is known.

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
    """The job for one configuration; with a checker, it first compares the split with a single device. Raises
    RowspanError if the configuration cannot work.
    """
    blueprint = make_blueprint(config)
    checked = checker.check(config).fields() if checker is not None else {}
    return Job(
        label=f"native {config.model_path.name} {config.split_mode} {','.join(map(str, config.devices))}",
        fields={**model.fields(), **_engine_fields(blueprint), **_option_fields(blueprint), **checked},
        start=partial(NativeRunner, blueprint),
        memory_bytes=sum(size.weights + WORKER_BYTES for size in blueprint.sizes) + sum(blueprint.cache_bytes),
        devices=tuple(dict.fromkeys(shard.device for shard in blueprint.plan.shards)),
        demand=demand,
    )


def gguf_facts(path: Path, sha256: str | None = None) -> tuple[ModelFacts, Demand, ModelSpec]:
    """The facts that rows state about a GGUF file, the least work that its tokens take, and its spec. Raises
    RowspanError if the file cannot be read.
    """
    checkpoint = open_checkpoint(path)
    spec = read_spec(checkpoint)
    facts = model_facts(checkpoint, spec, sha256), Demand.of(spec, checkpoint.tensors), spec
    checkpoint.close()
    return facts


def check_context(most: Workload, spec: ModelSpec) -> None:
    """Raise ContextOverflowError if the workload is longer than the model's context."""
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
    ratios = config.tensor_split or (0.0,)  # llama-bench's way to say that none was given
    return {
        "backends": ",".join(sorted({shard.device.kind.upper() for shard in plan.shards})),
        "n_batch": config.token_budget,
        "n_ubatch": config.token_budget,
        "n_threads": sum(setup.threads for setup in blueprint.setups()),
        "type_k": cache_type(blueprint.lead.cache_dtypes[0]).option,
        "type_v": cache_type(blueprint.lead.cache_dtypes[1]).option,
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
