"""Decides everything that a configuration determines before a worker starts: spec, split, routes, cache size,
kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add

import psutil

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.model_files import ModelFiles
from rowspan.comm.probing.trusted import known_routes, trusted_routes
from rowspan.config import EngineConfig
from rowspan.engine.cores import share_cores
from rowspan.errors import OutOfMemoryError, UnsupportedModelError, UsageError
from rowspan.kernels.isa import TORCH, TRITON, is_native, kernels_used, native_module
from rowspan.kvcache.groups import CacheLayout
from rowspan.model.families.registry import check_architecture
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.model.rope_table import table_bytes
from rowspan.model.spec import ModelSpec
from rowspan.model.supported import check_supported
from rowspan.plan.device import Device
from rowspan.plan.fit import CacheSize, ShardBytes, check_context, shard_bytes, size_cache
from rowspan.plan.routes import Routes
from rowspan.plan.shard import Plan
from rowspan.plan.split import split_or_fall_back
from rowspan.quant.cache_types import CacheKernels, cache_options, cache_type, cache_type_for
from rowspan.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

ANY_SIZE = 1 << 40  # tokens of a cache: more than there will be


@dataclass(frozen=True)
class RankKernels:
    """The kernels and number types with which a rank computes."""

    cpu_isa: str  # name of the kernels: an instruction set's native ones, or torch's
    dtype: str
    cache_dtypes: tuple[str, str]

    @classmethod
    def on(cls, device: Device, config: EngineConfig, spec: ModelSpec) -> RankKernels:
        """Choose them for a device. Raises UsageError if the device cannot do what the configuration asks for."""
        cpu_isa, dtype = kernels_used(config.cpu_isa, device.kind, config.dtype, config.card_kernels)
        if cpu_isa == TRITON and not spec.causal:
            cpu_isa = TORCH  # Triton's attention is causal
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
    """All decisions about how a model will run, and on which ranks."""

    config: EngineConfig
    files: ModelFiles
    checkpoint: Checkpoint
    spec: ModelSpec
    plan: Plan
    routes: Routes
    sizes: tuple[ShardBytes, ...]  # by rank
    cache: CacheSize
    kernels: tuple[RankKernels, ...]  # by rank

    @property
    def lead(self) -> RankKernels:
        """The first rank's kernels; if all devices are of one kind, every rank's."""
        return self.kernels[0]

    @property
    def cache_layout(self) -> CacheLayout:
        """How the cache is shared out among groups of layers."""
        return _cache_layout(self.config, self.spec)

    @property
    def cache_bytes(self) -> list[int]:
        """Of each rank's part of the cache; on cards it may become larger or smaller."""
        tokens = self.cache.n_blocks * self.config.block_size
        return [self.cache_layout.nbytes(tokens, size.position_bytes) for size in self.sizes]

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
                cache_layout=self.cache_layout,
                context_size=self.cache.context_size,
                max_tokens=self.config.token_budget,
                max_logits=max_logits(self.config),
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


def check_writes(spec: ModelSpec) -> None:
    """Raise UsageError if the model is an encoder."""
    if not spec.causal:
        raise UsageError(
            f"{spec.name} is an encoder: it reads texts, and writes none.",
            fix="Ask for embeddings (or, of a reranker, for relevance), or serve a model that writes.",
        )


def tells_scores(config: EngineConfig) -> bool:
    """Whether log-probabilities of prompts can be had: from native kernels, whose buffers take no memory unused."""
    return config.cpu_isa != TORCH and all(device.kind == "cpu" for device in config.devices)


def samples_on_card(blueprint: Blueprint) -> bool:
    """Whether tokens are chosen by a card's kernels, which have the usual filters."""
    return blueprint.kernels[blueprint.plan.output_rank].cpu_isa == TRITON


def max_logits(config: EngineConfig) -> int:
    """The most tokens of a step whose logits are wanted: of all that decode, and, on processors, of a block of a prompt
    whose log-probabilities are asked for. (The latter's buffers are not touched, and not counted, before one is.)
    """
    scored = config.block_size if tells_scores(config) else 0
    return min(config.token_budget, config.parallel * (1 + config.guesses) + scored)


def make_blueprint(config: EngineConfig, free_elsewhere: Sequence[int] = ()) -> Blueprint:
    """Read the model's header and decide.

    Args:
        free_elsewhere: bytes of free memory on the other hosts, host 1 first.

    Raises:
        RowspanError: the file is missing or damaged, the architecture unknown, the split impossible, or memory too
            small.
    """
    checkpoint = open_checkpoint(config.model_path)
    files = ModelFiles(checkpoint.paths)
    check_architecture(checkpoint.metadata)
    if checkpoint.unknown_tensors:
        raise UnsupportedModelError(
            f"{config.model_path.name} holds tensors Rowspan does not know.",
            why=f"Leaving out {', '.join(checkpoint.unknown_tensors[:3])} would silently change the model's answers.",
            fix="Choose another conversion of this model, or --backend llamacpp.",
        )
    spec = read_spec(checkpoint)
    check_supported(spec)
    config = _for_whole_texts(config, spec)
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
    return Blueprint(config, files, checkpoint, spec, plan, routes, sizes, cache, kernels)


def _for_whole_texts(config: EngineConfig, spec: ModelSpec) -> EngineConfig:
    """The configuration that runs this model: an encoder computes a text in one step, and nothing is read twice from
    its cache.
    """
    if spec.causal:
        return config
    longest = config.context_size or spec.context_length
    return replace(config, token_budget=max(config.token_budget, longest), prefix_reuse=False)


def with_trusted_routes(blueprint: Blueprint) -> Blueprint:
    """The same blueprint with transports that are known to return what was sent on this machine; unknown ones are tried
    now. For a plan over several hosts this checks the first host's part: `check_host` does so for the others.

    Raises:
        SplitError: no transport can be trusted.
    """
    if len(blueprint.plan.shards) == 1 or blueprint.routes.probed:
        return blueprint
    return replace(blueprint, routes=trusted_routes(blueprint.plan, native_module()))


def check_room(cache_tokens: int, config: EngineConfig) -> None:
    """Raise OutOfMemoryError if the cards have room for less cache than was asked for."""
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
        beside_int8 = "float16" if any(size % cache_type("int16").grain for size in spec.head_sizes) else "int16"
        return beside_int8 if dtype == "int8" else dtype
    known = cache_options(CacheKernels.NATIVE, CacheKernels.TENSORS)
    if name not in known:
        raise UsageError(f"{option} {name} is not known.", fix=f"Choose one of {', '.join(known)}.")
    kind = cache_type_for(name, CacheKernels.NATIVE if is_native(isa) else CacheKernels.TENSORS)
    unfit = [size for size in spec.head_sizes if kind is not None and size % kind.grain]
    if kind is None or unfit:
        raise UsageError(
            f"{option} {name} cannot be had here.",
            why="Only the native kernels for CPUs have it."
            if kind is None
            else f"It takes {kind.grain} elements at a time, and a head has {unfit[0]}.",
            fix=f"Use {option} f16.",
        )
    return kind.dtype


def _size_cache(
    config: EngineConfig, spec: ModelSpec, plan: Plan, sizes: tuple[ShardBytes, ...], free: Sequence[int]
) -> CacheSize:
    """Choose the cache's size. Args: free: bytes of free memory on each host. Every rank's cache has the same number of
    positions, so the host with the least room decides.
    """
    check_context(config.context_size, spec)
    if config.context_size is not None and config.context_size < config.block_size:
        raise UsageError(
            f"--ctx-size {config.context_size} is too small.", fix=f"Use at least {config.block_size} tokens."
        )
    layout = _cache_layout(config, spec)
    nothing = [0] * len(layout.groups)
    needed: dict[int, list[int]] = {}  # bytes for a position of the cache in each group, by host
    left = dict(enumerate(free))
    for shard, size in zip(plan.shards, sizes, strict=True):
        if shard.device.kind == "cpu":
            host = shard.device.host
            needed[host] = [*map(add, needed.get(host, nothing), size.position_bytes)]
            left[host] -= size.weights
    tightest = min(needed, key=lambda host: layout.tokens_within(left[host], needed[host], ANY_SIZE), default=None)
    return size_cache(
        spec,
        context_size=config.context_size,
        cache_tokens=config.cache_tokens,
        layout=layout,
        position_bytes=nothing if tightest is None else needed[tightest],
        free_bytes=None if tightest is None else left[tightest],
        table_bytes=table_bytes(spec) * sum(shard.device.host == tightest for shard in plan.shards),
    )


def _cache_layout(config: EngineConfig, spec: ModelSpec) -> CacheLayout:
    return CacheLayout(spec.cache_groups, config.block_size, config.parallel, config.token_budget)
