"""From a configuration to everything decided before a worker starts: shape, split, cache size, cores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.open import open_checkpoint
from rowspan.comm.probing.trusted import known_routes, trusted_routes
from rowspan.config import CACHE_TYPES, TENSOR_CACHE_TYPES, EngineConfig
from rowspan.engine.cores import share_cores
from rowspan.errors import OutOfMemoryError, UnsupportedModelError, UsageError
from rowspan.kernels.isa import TRITON, is_native, kernels_used, native_module
from rowspan.model.spec import ModelSpec
from rowspan.plan.device import Device
from rowspan.plan.fit import CACHE_GRAINS, CacheSize, ShardBytes, check_context, shard_bytes, size_cache
from rowspan.plan.routes import Routes
from rowspan.plan.split import Plan, split_or_fall_back
from rowspan.worker.messages import WorkerSetup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankKernels:
    """How a rank computes."""

    cpu_isa: str  # which kernels: an instruction set's native ones, or torch's
    dtype: str
    cache_dtypes: tuple[str, str]

    @classmethod
    def on(cls, device: Device, config: EngineConfig, spec: ModelSpec) -> RankKernels:
        """Raises UsageError: the configuration asks for what this device cannot do."""
        cpu_isa, dtype = kernels_used(config.cpu_isa, device.kind, config.dtype, config.card_kernels)
        cache_dtypes = (
            _cache_dtype(config.cache_type_k, dtype, cpu_isa, spec, "--cache-type-k"),
            _cache_dtype(config.cache_type_v, dtype, cpu_isa, spec, "--cache-type-v"),
        )
        if cpu_isa == TRITON and cache_dtypes[0] != cache_dtypes[1]:
            raise UsageError(
                f"--cache-type-k is {config.cache_type_k or dtype} and --cache-type-v {config.cache_type_v or dtype}.",
                why="The kernels for cards read both in one type.",
                fix="Give both the same type: --cache-type-k q8_0 --cache-type-v q8_0 is the smallest.",
            )
        return cls(cpu_isa, dtype, cache_dtypes)


@dataclass(frozen=True)
class Blueprint:
    """What will run where."""

    config: EngineConfig
    checkpoint: Checkpoint
    spec: ModelSpec
    plan: Plan
    routes: Routes
    sizes: tuple[ShardBytes, ...]  # by rank
    cache: CacheSize
    kernels: tuple[RankKernels, ...]  # by rank

    @property
    def lead(self) -> RankKernels:
        """How the first rank computes: all of them, where devices are of one kind."""
        return self.kernels[0]

    def setups(self) -> list[WorkerSetup]:
        return [
            WorkerSetup(
                rank=shard.rank,
                plan=self.plan,
                routes=self.routes,
                model_path=self.config.model_path,
                dtype=kernels.dtype,
                cpu_isa=kernels.cpu_isa,
                cache_dtypes=kernels.cache_dtypes,
                n_blocks=self.cache.n_blocks if shard.device.kind == "cpu" else self.cache.most_blocks,
                block_size=self.config.block_size,
                context_size=self.cache.context_size,
                max_tokens=self.config.token_budget,
                max_outputs=min(self.config.token_budget, self.config.parallel),
                cores=cores,
                threads=threads,
                memory_share=self.config.gpu_memory_utilization,
                sharers=len(sharing := [other.rank for other in self.plan.shards if other.device == shard.device]),
                turn=sharing.index(shard.rank),
            )
            for shard, kernels, (cores, threads) in zip(
                self.plan.shards, self.kernels, share_cores(self.plan, self.config), strict=True
            )
        ]


def make_blueprint(config: EngineConfig, free_elsewhere: Sequence[int] = ()) -> Blueprint:
    """Read the model's header and decide.

    Args:
        free_elsewhere: bytes of memory that other hosts have left, host 1 first.

    Raises:
        RowspanError: no such file, a damaged file, an unknown architecture, an impossible split, too little memory.
    """
    checkpoint = open_checkpoint(config.model_path)
    if checkpoint.unknown_tensors:
        raise UnsupportedModelError(
            f"{config.model_path.name} holds tensors Rowspan does not know.",
            why=f"Leaving out {', '.join(checkpoint.unknown_tensors[:3])} would silently change the model's answers.",
            fix="Choose a plain llama, mistral, qwen2 or qwen3 model.",
        )
    spec = ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
    plan = split_or_fall_back(
        spec,
        checkpoint.tensors,
        config.devices,
        config.split_mode,
        ratios=config.tensor_split,
        main_device=config.main_gpu,
        n_stages=config.stages,
        gpu_layers=config.gpu_layers,
    )
    if plan.note:
        log.warning("%s", plan.note)
    kernels = tuple(RankKernels.on(shard.device, config, spec) for shard in plan.shards)
    sizes = tuple(
        shard_bytes(
            plan,
            shard,
            checkpoint.tensors,
            how.dtype,
            how.cache_dtypes,
            native=is_native(how.cpu_isa),
            on_card=how.cpu_isa == TRITON,
        )
        for shard, how in zip(plan.shards, kernels, strict=True)
    )
    cache = _size_cache(config, spec, plan, sizes, [psutil.virtual_memory().available, *free_elsewhere])
    routes = known_routes(plan, native_module())
    return Blueprint(config, checkpoint, spec, plan, routes, sizes, cache, kernels)


def with_trusted_routes(blueprint: Blueprint) -> Blueprint:
    """The same over transports that are known to return what was sent on this machine; tried now, if they are not.
    Of a plan over several hosts, what is on this one: `check_host` is for the others.

    Raises:
        SplitError: there are none.
    """
    if len(blueprint.plan.shards) == 1 or blueprint.routes.probed:
        return blueprint
    return replace(blueprint, routes=trusted_routes(blueprint.plan, native_module()))


def check_room(cache_tokens: int, config: EngineConfig) -> None:
    """Raises OutOfMemoryError: what cards have room for is less than was asked for."""
    asked = config.context_size or config.block_size
    if cache_tokens < asked:
        raise OutOfMemoryError(
            f"The cards have room for a cache of {cache_tokens} tokens only.",
            why=f"One request may have {asked}.",
            fix="Use a smaller --ctx-size, --cache-type-k q8_0 --cache-type-v q8_0, more cards, or a larger "
            "--gpu-memory-utilization.",
        )


def _cache_dtype(name: str | None, dtype: str, isa: str, spec: ModelSpec, option: str) -> str:
    if name is None:
        beside_int8 = "float16" if spec.head_dim % CACHE_GRAINS["int16"] else "int16"
        return beside_int8 if dtype == "int8" else dtype
    if name not in CACHE_TYPES:
        raise UsageError(f"{option} {name} is not known.", fix=f"Choose one of {', '.join(CACHE_TYPES)}.")
    cache_dtype = (CACHE_TYPES if is_native(isa) else TENSOR_CACHE_TYPES)[name]
    grain = CACHE_GRAINS.get(cache_dtype)
    if grain is not None and (not is_native(isa) or spec.head_dim % grain):
        raise UsageError(
            f"{option} {name} cannot be had here.",
            why="Only the native kernels for CPUs have it."
            if not is_native(isa)
            else f"It takes {grain} elements at a time, and a head has {spec.head_dim}.",
            fix=f"Use {option} f16.",
        )
    return cache_dtype


def _size_cache(
    config: EngineConfig, spec: ModelSpec, plan: Plan, sizes: tuple[ShardBytes, ...], free: Sequence[int]
) -> CacheSize:
    """Args: free: bytes of memory left on each host. Every rank's cache has as many positions, so the tightest host
    decides."""
    check_context(config.context_size, spec)
    if config.context_size is not None and config.context_size < config.block_size:
        raise UsageError(
            f"--ctx-size {config.context_size} is too small.", fix=f"Use at least {config.block_size} tokens."
        )
    needed: dict[int, int] = {}  # bytes for a position of the cache, by host
    left = dict(enumerate(free))
    for shard, size in zip(plan.shards, sizes, strict=True):
        if shard.device.kind == "cpu":
            host = shard.device.host
            needed[host] = needed.get(host, 0) + size.cache_per_token
            left[host] -= size.weights
    tightest = min(needed, key=lambda host: left[host] / max(1, needed[host]), default=None)
    return size_cache(
        spec,
        context_size=config.context_size,
        cache_tokens=config.cache_tokens,
        parallel=config.parallel,
        block_size=config.block_size,
        bytes_per_token=0 if tightest is None else needed[tightest],
        free_bytes=None if tightest is None else left[tightest],
    )
