"""From a grid to rows: draws up every configuration first, then measures one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rowspan.bench.grid import Grid, Workload
from rowspan.bench.measure import Runner
from rowspan.bench.model import ModelFacts, model_facts
from rowspan.bench.results import Machine, RunFacts, Times, record
from rowspan.checkpoint.open import open_checkpoint
from rowspan.engine.open import Blueprint, draw_up
from rowspan.errors import ContextOverflowError, UsageError
from rowspan.model.spec import ModelSpec
from rowspan.rig.probe.cpu import probe_cpu
from rowspan.rig.probe.rig import probe_cards


@dataclass(frozen=True)
class Job:
    """A configuration that can run, and what its rows say of the model."""

    blueprint: Blueprint
    model: ModelFacts

    def __str__(self) -> str:
        config = self.blueprint.config
        return f"{config.model_path.name} {config.split_mode} {','.join(map(str, config.devices))}"


@dataclass(frozen=True)
class Procedure:
    """How to measure a workload. delay: seconds of rest before it."""

    repetitions: int = 5
    warm_up: bool = True
    delay: float = 0.0


def draw_up_jobs(models: Mapping[Path, str | None], grid: Grid, work: Sequence[Workload]) -> list[Job]:
    """Decide on every configuration before the first is measured, so that one that cannot work shows at once.

    Args:
        models: files, and the checksum of each where it is known.

    Raises:
        RowspanError: there is nothing to measure, or a configuration cannot work.
    """
    if not work:
        raise UsageError("There is nothing to measure.", fix="Give -p, -n or -pg a number above 0.")
    longest = max(work, key=lambda workload: workload.context)
    facts = {path: _facts(path, longest, sha256) for path, sha256 in models.items()}
    configurations = grid.configurations(list(models), longest.context)
    return [Job(draw_up(config), facts[config.model_path]) for config in configurations]


def measure_jobs(
    jobs: Sequence[Job], work: Sequence[Workload], procedure: Procedure, on_progress: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Rows, each as soon as it is measured; see `record`. One configuration is loaded at a time.

    Args:
        on_progress: told what begins.

    Raises:
        EngineError: a worker could not load, or failed.
    """
    machine = Machine(probe_cpu(), probe_cards())
    total = len(jobs) * len(work)
    for index, job in enumerate(jobs):
        on_progress(f"{job}: loading")
        with Runner(job.blueprint) as runner:
            for number, workload in enumerate(work, index * len(work) + 1):
                on_progress(f"{number}/{total} {job}: {workload.name}")
                time.sleep(procedure.delay)
                test_time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                times = _measure(runner, workload, procedure)
                run = RunFacts(runner.load_seconds, runner.weight_bytes, runner.cache_bytes, runner.peak_memory())
                yield record(machine, job.model, job.blueprint, workload, times, run, test_time)


def _measure(runner: Runner, workload: Workload, procedure: Procedure) -> Times:
    if procedure.warm_up:
        runner.warm_up(workload)
    runner.fill(workload.n_depth)
    samples = tuple(runner.measure(workload) for _ in range(procedure.repetitions))
    return Times(samples, workload.n_tokens)


def _facts(path: Path, longest: Workload, sha256: str | None) -> ModelFacts:
    checkpoint = open_checkpoint(path)
    spec = ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
    if longest.context > spec.context_length:
        raise ContextOverflowError(
            f"{longest.name} needs a context of {longest.context} tokens.",
            why=f"{spec.name} was made for {spec.context_length}.",
            fix="Use a smaller -p, -n, -pg or -d.",
        )
    facts = model_facts(checkpoint, spec, sha256)
    checkpoint.close()
    return facts
