"""What is measured: configurations (how a model runs) × workloads (what it computes)."""

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
    """One test, in tokens: `n_depth` are in the cache already, a prompt of `n_prompt` follows, then `n_gen` single
    tokens; `n_concurrent` sequences do so at once."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_concurrent: int = 1

    @property
    def name(self) -> str:
        """As llama-bench writes it, and the sequences: "pp512", "pp512+tg128", "tg128 @ d4096", "tg128 x16"."""
        parts = [f"pp{self.n_prompt}"] * bool(self.n_prompt) + [f"tg{self.n_gen}"] * bool(self.n_gen)
        depth = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + depth + (f" x{self.n_concurrent}" if self.n_concurrent > 1 else "")

    @property
    def n_tokens(self) -> int:
        """Tokens whose time is taken, over all sequences."""
        return self.n_concurrent * (self.n_prompt + self.n_gen)

    @property
    def context(self) -> int:
        """Positions of one sequence that are in use at the end."""
        return self.n_depth + self.n_prompt + self.n_gen


def workloads(
    prompts: Sequence[int],
    generations: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    depths: Sequence[int],
    concurrencies: Sequence[int] = (1,),
) -> list[Workload]:
    """Prompts and generations are tests of their own, pairs combine them; all of them at every depth and with every
    number of sequences. 0 leaves out."""
    return [
        Workload(n_prompt, n_gen, depth, concurrent)
        for concurrent in concurrencies
        for depth in depths
        for n_prompt, n_gen in [*((n, 0) for n in prompts), *((0, n) for n in generations), *pairs]
        if n_prompt or n_gen
    ]


def longest(work: Sequence[Workload]) -> Workload:
    """The one that needs the longest context."""
    return max(work, key=lambda workload: workload.context)


def most_concurrent(work: Sequence[Workload]) -> int:
    """The most sequences at once."""
    return max(workload.n_concurrent for workload in work)


@dataclass(frozen=True)
class Grid:
    """Values of every option of the engine that a benchmark varies; see `EngineConfig`."""

    devices: Sequence[tuple[Device, ...]]
    split_modes: Sequence[SplitMode]
    main_gpus: Sequence[int]
    tensor_splits: Sequence[tuple[float, ...] | None]
    dtypes: Sequence[str | None]
    cache_types_k: Sequence[str | None]
    cache_types_v: Sequence[str | None]
    token_budgets: Sequence[int]
    threads: Sequence[int | None]

    @property
    def _single(self) -> SplitMode:
        return SplitMode.NONE if SplitMode.NONE in self.split_modes else self.split_modes[0]

    def configurations(self, paths: Sequence[Path], context_size: int, parallel: int = 1) -> Iterator[EngineConfig]:
        """Every combination; the model changes least often. Each has room for `parallel` sequences of `context_size`
        tokens. A single device has no split: `none` stands for all modes there, or the first one given."""
        context_size = max(context_size, EngineConfig.block_size)
        for path, devices, mode, main, ratios, dtype, type_k, type_v, budget, threads in product(
            paths,
            self.devices,
            self.split_modes,
            self.main_gpus,
            self.tensor_splits,
            self.dtypes,
            self.cache_types_k,
            self.cache_types_v,
            self.token_budgets,
            self.threads,
        ):
            if len(devices) == 1 and mode != self._single:
                continue
            yield EngineConfig(
                model_path=path,
                devices=devices,
                split_mode=mode,
                tensor_split=ratios,
                main_gpu=main,
                context_size=context_size,
                parallel=parallel,
                cache_tokens=parallel * -(-context_size // EngineConfig.block_size) * EngineConfig.block_size,
                token_budget=budget,
                cache_type_k=type_k,
                cache_type_v=type_v,
                dtype=dtype,
                threads=threads,
                prefix_reuse=False,
            )
