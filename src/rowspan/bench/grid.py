"""A benchmark's grid: configurations (how a model runs) × workloads (what it computes)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rowspan.config import EngineConfig
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode


@dataclass(frozen=True)
class Workload:
    """One test, in tokens: with `n_depth` tokens in the cache already, a prompt of `n_prompt` is computed, then `n_gen`
    single tokens; `n_concurrent` sequences do so at once.
    """

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_concurrent: int = 1

    @property
    def name(self) -> str:
        """The name as llama-bench writes it, with the number of sequences: "pp512", "pp512+tg128", "tg128 @ d4096",
        "tg128 x16".
        """
        parts = [f"pp{self.n_prompt}"] * bool(self.n_prompt) + [f"tg{self.n_gen}"] * bool(self.n_gen)
        depth = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + depth + (f" x{self.n_concurrent}" if self.n_concurrent > 1 else "")

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are timed, over all sequences."""
        return self.n_concurrent * (self.n_prompt + self.n_gen)

    @property
    def context(self) -> int:
        """Number of positions that one sequence uses in the end."""
        return self.n_depth + self.n_prompt + self.n_gen


def workloads(
    prompts: Sequence[int],
    generations: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    depths: Sequence[int],
    concurrencies: Sequence[int] = (1,),
) -> list[Workload]:
    """All combinations: every prompt and every generation length is a test of its own, each pair is a test of both;
    each is run at every depth and with every number of sequences. A length of 0 makes no test.
    """
    return [
        Workload(n_prompt, n_gen, depth, concurrent)
        for concurrent in concurrencies
        for depth in depths
        for n_prompt, n_gen in [*((n, 0) for n in prompts), *((0, n) for n in generations), *pairs]
        if n_prompt or n_gen
    ]


def longest(work: Sequence[Workload]) -> Workload:
    """The workload that needs the longest context."""
    return max(work, key=lambda workload: workload.context)


def most_concurrent(work: Sequence[Workload]) -> int:
    """The largest number of sequences that any workload runs at once."""
    return max(workload.n_concurrent for workload in work)


@dataclass(frozen=True)
class Grid:
    """The values of every engine option that a benchmark varies; `EngineConfig` explains the options."""

    devices: Sequence[tuple[Device, ...]]
    split_modes: Sequence[SplitMode]
    main_gpus: Sequence[int]
    tensor_splits: Sequence[tuple[float, ...] | None]
    dtypes: Sequence[str | None]
    cache_types_k: Sequence[str | None]
    cache_types_v: Sequence[str | None]
    token_budgets: Sequence[int]
    threads: Sequence[int | None]
    gpu_layers: Sequence[int | None] = (None,)

    @property
    def _single(self) -> SplitMode:
        return SplitMode.NONE if SplitMode.NONE in self.split_modes else self.split_modes[0]

    def configurations(self, paths: Sequence[Path], context_size: int, parallel: int = 1) -> Iterator[EngineConfig]:
        """Yield every combination; the model changes least often. Each combination has room for `parallel` sequences of
        `context_size` tokens. A single device has no split: there the mode `none`, or else the first one given, stands
        for all.
        """
        context_size = max(context_size, EngineConfig.block_size)
        for path, devices, mode, main, ratios, dtype, type_k, type_v, budget, (threads, layers) in product(
            paths,
            self.devices,
            self.split_modes,
            self.main_gpus,
            self.tensor_splits,
            self.dtypes,
            self.cache_types_k,
            self.cache_types_v,
            self.token_budgets,
            list(product(self.threads, self.gpu_layers)),  # product's types end at ten iterables
        ):
            if len(devices) == 1 and mode != self._single:
                continue
            yield EngineConfig(
                model_path=path,
                devices=devices,
                split_mode=mode,
                tensor_split=ratios,
                main_gpu=main,
                gpu_layers=layers,
                context_size=context_size,
                parallel=parallel,
                cache_tokens=parallel * -(-context_size // EngineConfig.block_size) * EngineConfig.block_size,
                token_budget=budget,
                cache_type_k=type_k,
                cache_type_v=type_v,
                dtype=dtype,
                threads=threads,
                prefix_reuse=False,
            ).with_env()
