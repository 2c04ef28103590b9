"""Makes jobs that run other engines, llama.cpp's server and vLLM, as the backends start them."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil

from rowspan.backends.choose import open_child
from rowspan.backends.protocol import BackendName, Model, Setup
from rowspan.backends.vllm import vllm_flags
from rowspan.bench.engines.model_facts import ModelFacts
from rowspan.bench.engines.served_runner import ServedRunner
from rowspan.bench.job import Job
from rowspan.bench.model_demand import CACHE_VALUE_BYTES, Demand
from rowspan.config import BackendConfig, EngineConfig
from rowspan.errors import UnsupportedModelError
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode

SERVER_BYTES = {BackendName.LLAMACPP: 500 << 20, BackendName.VLLM: 2500 << 20}  # memory beside weights and KV cache
SPARE_TOKENS = 2  # at least one prompt token, and one token more than is timed
# Options that a benchmark sets for every engine, and options that it sets only if the user has.
ALWAYS = frozenset({"context_size", "parallel", "threads", "prefix_reuse", "split_mode", "devices"})


@dataclass(frozen=True)
class ServedModel:
    """A model as it is given to an engine, with the facts for its rows.

    vocabulary: its number of token ids.
    refusal: why Rowspan's own engine cannot run it; None if it can, as far as is known.
    """

    model: Model
    facts: ModelFacts
    demand: Demand | None
    vocabulary: int
    refusal: UnsupportedModelError | None = None


def served_job(
    name: BackendName,
    known: ServedModel,
    config: EngineConfig,
    backend: BackendConfig,
    flash: str | None = None,
    batch: int | None = None,
) -> Job:
    """The job for one engine with one configuration.

    Args:
        backend: where the engines are installed, and further arguments for them.
        flash: on, off or auto, for llama.cpp.
        batch: number of tokens handed over at once, for llama.cpp.

    Raises:
        MissingBackendError: the engine is not installed.
        UnsupportedOptionError: the engine cannot do what the configuration asks for.
        RowspanError: something else is wrong.
    """
    # All engines get the same number of cores, since their defaults differ.
    threads = config.threads or len(os.sched_getaffinity(0))
    room = (config.context_size or 0) + SPARE_TOKENS
    config = replace(config, threads=threads, cache_tokens=None, context_size=room)
    if flash is not None and name == BackendName.LLAMACPP:
        backend = replace(backend, arguments=(*backend.arguments, "--flash-attn", flash))
    if batch is not None and name == BackendName.LLAMACPP:
        backend = replace(backend, arguments=(*backend.arguments, "--batch-size", str(batch)))
    setup = Setup(known.model, config, ALWAYS | _given(config), backend)
    opened = open_child(name, setup)
    position = known.demand.cache_values * CACHE_VALUE_BYTES if known.demand else 0
    cache_bytes = _vllm_cache_bytes() if name == BackendName.VLLM else config.parallel * room * position
    return Job(
        label=f"{name} {known.model.name} {config.split_mode} {','.join(map(str, config.devices))}",
        fields={
            **known.facts.fields(),
            **_option_fields(name, config, flash),
            "n_batch": batch,
            "engine": str(name),
            "engine_version": opened.version,
            "engine_flags": shlex.join(opened.command[1:]),
        },
        start=partial(ServedRunner, opened, known.vocabulary),
        memory_bytes=known.facts.size + cache_bytes + SERVER_BYTES[name],
        devices=tuple(dict.fromkeys(_used(config))),
        demand=known.demand,
    )


def _vllm_cache_bytes() -> int:
    """Bytes of vLLM's KV cache on a processor, the same for every workload."""
    said = os.environ.get(vllm_flags.CACHE_SPACE)
    return int(said) << 30 if said else int(psutil.virtual_memory().available * vllm_flags.CACHE_SHARE)


def _given(config: EngineConfig) -> frozenset[str]:
    """Names of the options that differ from their defaults: those the user asked for."""
    names = ("main_gpu", "tensor_split", "gpu_layers", "cache_type_k", "cache_type_v", "dtype", "token_budget")
    return frozenset(name for name in names if getattr(config, name) != getattr(EngineConfig, name))


def _option_fields(name: BackendName, config: EngineConfig, flash: str | None) -> dict[str, Any]:
    """Fields of a row for the engine's options; None stands for an option left to the engine's own choice."""
    used = _used(config)
    ratios = config.tensor_split or (0.0,)
    said = config.token_budget != EngineConfig.token_budget
    return {
        "backends": ",".join(sorted({device.kind.upper() for device in used})),
        "n_ubatch": config.token_budget if said else None,
        "n_threads": config.threads if len(used) == len(config.devices) else _share(config),
        "type_k": config.cache_type_k,
        "type_v": config.cache_type_v,
        "split_mode": config.split_mode.value,
        "main_gpu": config.main_gpu,
        "n_gpu_layers": config.gpu_layers,
        "flash_attn": {"on": 1, "off": 0}.get(flash or "auto"),
        "devices": "/".join(str(device) for device in config.devices),
        "tensor_split": "/".join(f"{ratio:.2f}" for ratio in ratios),
        "dtype": config.dtype,
    }


def _used(config: EngineConfig) -> tuple[Device, ...]:
    return config.devices if config.split_mode != SplitMode.NONE else config.devices[config.main_gpu :][:1]


def _share(config: EngineConfig) -> int:
    return max(1, (config.threads or 1) // len(config.devices))
