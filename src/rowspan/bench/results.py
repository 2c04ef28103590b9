"""A measured row: its circumstances and its times, under llama-bench's field names and a few of ours."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.model import ModelFacts
from rowspan.config import CACHE_TYPES
from rowspan.engine.open import Blueprint
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.cpu import Cpu

SAMPLES = ("samples_ns", "samples_ts")  # fields that are lists; only the JSON formats hold them


@dataclass(frozen=True)
class Times:
    """Statistics of a workload's repetitions; rates in tokens per second.

    The average rate is the mean of the repetitions' rates (not tokens over mean time), and the deviation is that of a
    sample (n - 1); 0 for a single one.
    """

    samples_ns: tuple[int, ...]
    n_tokens: int

    @property
    def samples_ts(self) -> list[float]:
        return [self.n_tokens * 1e9 / sample for sample in self.samples_ns]

    def fields(self) -> dict[str, Any]:
        rates = self.samples_ts
        return {
            "avg_ns": round(statistics.fmean(self.samples_ns)),
            "stddev_ns": round(_deviation(self.samples_ns)),
            "avg_ts": statistics.fmean(rates),
            "stddev_ts": _deviation(rates),
            "median_ts": statistics.median(rates),
            "samples_ns": list(self.samples_ns),
            "samples_ts": rates,
        }


@dataclass(frozen=True)
class Machine:
    """Where the measuring happens."""

    cpu: Cpu
    cards: Sequence[Card]


@dataclass(frozen=True)
class RunFacts:
    """What starting a configuration showed; bytes over all ranks."""

    load_seconds: float
    weight_bytes: int
    cache_bytes: int
    peak_memory_bytes: int


def record(
    machine: Machine,
    model: ModelFacts,
    blueprint: Blueprint,
    workload: Workload,
    times: Times,
    run: RunFacts,
    test_time: str,
) -> dict[str, Any]:
    """One row. `test_time`: when it began, ISO 8601, UTC."""
    return {
        "build_commit": "unknown",
        "build_number": 0,
        "cpu_info": machine.cpu.model,
        "gpu_info": ", ".join(card.name for card in machine.cards),
        "backends": _backends(blueprint),
        "model_filename": str(model.path),
        "model_type": model.type,
        "model_size": model.size,
        "model_n_params": model.n_params,
        **_options(blueprint),
        "n_prompt": workload.n_prompt,
        "n_gen": workload.n_gen,
        "n_depth": workload.n_depth,
        "test_time": test_time,
        **times.fields(),
        "engine": "rowspan",
        "engine_version": importlib.metadata.version("rowspan"),
        "torch_version": importlib.metadata.version("torch"),
        "kernels": blueprint.lead.cpu_isa,
        "dtype": blueprint.lead.dtype,
        "model_fingerprint": model.fingerprint,
        "model_sha256": model.sha256,
        "load_seconds": round(run.load_seconds, 3),
        "weight_bytes": run.weight_bytes,
        "cache_bytes": run.cache_bytes,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def workload_name(row: Mapping[str, Any]) -> str:
    """Name of a row's workload."""
    return Workload(row["n_prompt"], row["n_gen"], row["n_depth"]).name


def _options(blueprint: Blueprint) -> dict[str, Any]:
    config, plan = blueprint.config, blueprint.plan
    cache_names = {dtype: name for name, dtype in CACHE_TYPES.items()}
    ratios = config.tensor_split or (0.0,)  # llama-bench's way to say that none was given
    return {
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
        "flash_attn": 0,
        "devices": "/".join(str(device) for device in config.devices),
        "tensor_split": "/".join(f"{ratio:.2f}" for ratio in ratios),
    }


def _backends(blueprint: Blueprint) -> str:
    return ",".join(sorted({shard.device.kind.upper() for shard in blueprint.plan.shards}))


def _deviation(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0
