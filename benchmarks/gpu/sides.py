"""The two sides: each measures figures of a model, some at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from peers.benches import batched_bench, bench
from peers.engine import run
from peers.figures import Figure

from gpu.models import BenchModel
from gpu.rows import workload
from rowspan.bench.engines.native_runner import NativeRunner
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode

Samples = Mapping[Figure, Sequence[float]]  # tokens per second, of all sequences together


class Side(Protocol):
    name: str

    def parts(self, figures: Sequence[Figure]) -> list[list[Figure]]:
        """Those that are measured together; a failure is one part's only."""
        ...

    def measure(self, model: BenchModel, figures: Sequence[Figure], repetitions: int) -> Samples:
        """One part, after a warm-up. May be broken off by an exception at any moment."""
        ...

    def rest(self) -> None:
        """The other side's turn."""
        ...

    def close(self) -> None: ...


class Rowspan:
    """The native engine, by the plans of steps that `rowspan bench` sends to it."""

    name = "rowspan"

    def __init__(
        self,
        device: Device,
        batch: int,
        dtype: str | None,
        figures: Sequence[Figure],
        *,
        keep: bool = False,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            batch: most tokens in a step.
            figures: all that will ever be asked for: they decide on the size of the cache.
            keep: models stay loaded while the other side measures.
            ranks: that share the device, each with some rows of every matrix.
        """
        work = [workload(figure) for figure in figures]
        block = EngineConfig.block_size
        self._config = EngineConfig(
            Path(),  # for every model its own
            (device,) * ranks,
            SplitMode.NONE if ranks == 1 else SplitMode.ROW,
            dtype=dtype,
            token_budget=batch,
            context_size=max(block, *(one.context for one in work)),
            parallel=max(one.n_concurrent for one in work),
            cache_tokens=max(one.n_concurrent * -(-one.context // block) * block for one in work),
        ).with_env()
        self._keep = keep
        self._runners: dict[Path, NativeRunner] = {}

    def parts(self, figures: Sequence[Figure]) -> list[list[Figure]]:
        return [[figure] for figure in figures]

    def warm_up(self, model: BenchModel, figures: Sequence[Figure]) -> None:
        """Have all kernels compiled, which may take longer than a turn."""
        self.measure(model, figures, 0)

    def measure(self, model: BenchModel, figures: Sequence[Figure], repetitions: int) -> Samples:
        try:
            return {figure: self._rates(self._loaded(model), figure, repetitions) for figure in figures}
        except BaseException:
            self._unload(model.path)  # it may be in the middle of a step
            raise

    def rest(self) -> None:
        if not self._keep:
            self.close()

    def close(self) -> None:
        for path in list(self._runners):
            self._unload(path)

    def _loaded(self, model: BenchModel) -> NativeRunner:
        if model.path not in self._runners:
            self._runners[model.path] = NativeRunner(make_blueprint(replace(self._config, model_path=model.path)))
        return self._runners[model.path]

    def _unload(self, path: Path) -> None:
        runner = self._runners.pop(path, None)
        if runner is not None:
            runner.close()

    def _rates(self, runner: NativeRunner, figure: Figure, repetitions: int) -> list[float]:
        work = workload(figure)
        runner.prepare(work)
        runner.measure(work)  # kernels are compiled and graphs captured by now
        return [work.n_tokens * 1e9 / runner.measure(work).ns for _ in range(repetitions)]


class LlamaCpp:
    """llama-bench, and llama-batched-bench for several sequences."""

    name = "llama.cpp"

    def __init__(self, binaries: Path, device: Device, batch: int, more: Sequence[str]) -> None:
        """Args: more: further options of both programs."""
        on_card = device.kind == "cuda"
        place = ("-ngl", "99") if on_card else ("-t", str(len(os.sched_getaffinity(0))))
        self._binaries = binaries
        self._options = [*place, "-fa", "on", "-b", str(max(2048, batch)), "-ub", str(batch), *more]
        if on_card and device.index:
            self._options += ["-mg", str(device.index), "-sm", "none"]

    def version(self) -> str:
        """Raises EngineFailed: the programs do not run."""
        said = run(["sh", "-c", '"$0" --version 2>&1', self._binaries / "llama-bench"]).strip().splitlines()
        return next((line for line in said if line.startswith("version")), said[0] if said else "unknown")

    def parts(self, figures: Sequence[Figure]) -> list[list[Figure]]:
        """One call of a program each."""
        depths = {figure.n_depth for figure in figures if figure.n_sequences == 1}
        single = [[f for f in figures if f.n_sequences == 1 and f.n_depth == depth] for depth in sorted(depths)]
        return single + [[figure] for figure in figures if figure.n_sequences > 1]

    def measure(self, model: BenchModel, figures: Sequence[Figure], repetitions: int) -> Samples:
        if figures[0].n_sequences == 1:
            return bench(
                [self._binaries / "llama-bench", "-m", model.path, *self._options], figures, repetitions=repetitions
            )
        program = self._binaries / "llama-batched-bench"
        options = self._options
        return {figure: batched_bench(program, model.path, options, figure, repetitions) for figure in figures}

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass
