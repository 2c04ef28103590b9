"""Turns a grid over backends into jobs: finds which backend can run which configuration, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from rowspan.backends.protocol import BackendName, MissingBackendError, Model, ModelFormat, UnsupportedOptionError
from rowspan.bench.engines.hf_folder import read_folder
from rowspan.bench.engines.llama_bench import llama_bench_job
from rowspan.bench.engines.model_facts import header_facts
from rowspan.bench.engines.native_jobs import check_context, gguf_facts, native_job
from rowspan.bench.engines.served_jobs import ServedModel, served_job
from rowspan.bench.engines.split_check import Checker
from rowspan.bench.grid import Grid, Workload, longest, most_concurrent
from rowspan.bench.job import Job
from rowspan.config import BackendConfig, EngineConfig
from rowspan.errors import RowspanError, UnsupportedModelError, UsageError

READS = {BackendName.NATIVE: ModelFormat.GGUF, BackendName.LLAMACPP: ModelFormat.GGUF, BackendName.VLLM: ModelFormat.HF}


@dataclass(frozen=True)
class BenchRequest:
    """A request to measure workloads on some backends.

    checksums: those of the model files, as far as they are known.
    flash_attentions: on, off, auto, for llama.cpp; None: its own choice.
    batch_sizes: numbers of tokens that an engine is handed at once; None: its own choice.
    checker: compares the native engine's splits with a single device.
    """

    models: Sequence[Model]
    checksums: Mapping[Path, str | None]
    backends: Sequence[BackendName]
    grid: Grid
    work: Sequence[Workload]
    backend_config: BackendConfig
    flash_attentions: Sequence[str | None] = (None,)
    batch_sizes: Sequence[int | None] = (None,)
    checker: Checker | None = None


def plan_jobs(request: BenchRequest, on_left_out: Callable[[str], None]) -> list[Job]:
    """Decide on every configuration before the first is measured, so that one that cannot work shows at once.

    Every model goes to those backends that read its format. In a grid over several backends or models, a combination
    that a backend cannot do, and a file that cannot be read, is left out and reported; if nothing is left, or if only
    one backend and model was asked for, that is an error.

    Raises:
        RowspanError: there is nothing to measure, or a configuration cannot work.
    """
    if not request.work:
        raise UsageError("There is nothing to measure.", fix="Give -p, -n or -pg a number above 0.")
    _check_formats(request)
    jobs: list[Job] = []
    refusals: list[RowspanError] = []

    def leave_out(what: str, refusal: RowspanError, *, alone: bool) -> None:
        if alone:
            raise refusal
        refusals.append(refusal)
        on_left_out(f"{what}: {refusal}")

    for model in request.models:
        try:
            known = _known(model, request)
        except RowspanError as refusal:
            leave_out(model.name, refusal, alone=len(request.models) == 1)
            continue
        for name in [name for name in request.backends if READS[name] == model.format]:
            for config, batch in _batched(name, _configurations(model, request), request.batch_sizes, on_left_out):
                try:
                    jobs += _jobs(name, known, config, batch, request)
                except UnsupportedModelError as refusal:
                    several = len(request.backends) > 1 or len(request.models) > 1
                    leave_out(f"{name}, {model.name}", refusal, alone=not several)
                    break  # other configurations change nothing
                except (UnsupportedOptionError, MissingBackendError) as refusal:
                    where = f"{config.split_mode} on {','.join(map(str, config.devices))}"
                    leave_out(f"{name}, {where}", refusal, alone=len(request.backends) == 1)
    if not jobs:
        raise refusals[0]
    return jobs


def _check_formats(request: BenchRequest) -> None:
    """Check that a backend can read each model, and that each backend has a model to read."""
    for model in request.models:
        if not any(READS[name] == model.format for name in request.backends):
            raise UsageError(
                f"{model.name} is a {model.format}, which {' and '.join(request.backends)} cannot read.",
                fix="vllm reads Hugging Face folders, native and llamacpp read GGUF files.",
            )
    for name in request.backends:
        if not any(READS[name] == model.format for model in request.models):
            raise UsageError(
                f"There is no model that {name} reads.",
                why=f"It wants a {READS[name]}.",
                fix="Name one for each kind of engine: -m model.gguf,folder-of-the-same-model.",
            )


def _configurations(model: Model, request: BenchRequest) -> list[EngineConfig]:
    context, parallel = longest(request.work).context, most_concurrent(request.work)
    return list(request.grid.configurations([Path(model.location)], context, parallel))


def _batched(
    name: BackendName,
    configs: Sequence[EngineConfig],
    batches: Sequence[int | None],
    on_left_out: Callable[[str], None],
) -> Iterator[tuple[EngineConfig, int | None]]:
    """Yield each configuration with each batch size. As in llama.cpp, no step is larger than a batch. Only llama.cpp
    computes a batch in several steps; other engines measure such a configuration only once.
    """
    found: set[tuple[EngineConfig, int | None]] = set()
    for config, batch in product(configs, batches):
        capped = config if batch is None else replace(config, token_budget=min(config.token_budget, batch))
        pair = capped, batch if name == BackendName.LLAMACPP else None
        if batch is not None and pair in found:
            on_left_out(f"{name}, -b {batch} -ub {config.token_budget}: its batches are steps, so that is in already")
        else:
            found.add(pair)
            yield pair


def _known(model: Model, request: BenchRequest) -> ServedModel:
    path, most = Path(model.location), longest(request.work)
    if model.format == ModelFormat.HF:
        if not path.is_dir():
            raise UsageError(
                f"{model.location} is not on this machine.",
                why="A result tells which weights it is of.",
                fix="Download the folder first, and give its path.",
            )
        facts, demand, vocabulary = read_folder(path)
        return ServedModel(model, facts, demand, vocabulary)
    sha256 = request.checksums.get(path)
    try:
        facts, known_demand, spec = gguf_facts(path, sha256)
    except UnsupportedModelError as refusal:
        return _foreign(model, sha256, refusal)
    check_context(most, spec)
    return ServedModel(model, facts, known_demand, spec.vocab_size)


def _foreign(model: Model, sha256: str | None, refusal: UnsupportedModelError) -> ServedModel:
    """A model that only another engine may be able to run."""
    facts, vocabulary = header_facts(Path(model.location), sha256)
    return ServedModel(model, facts, None, vocabulary, refusal)


def _jobs(
    name: BackendName, known: ServedModel, config: EngineConfig, batch: int | None, request: BenchRequest
) -> list[Job]:
    if name == BackendName.NATIVE:
        if known.refusal is not None:
            raise known.refusal
        return [native_job(config, known.facts, known.demand, request.checker)]
    if name == BackendName.VLLM:
        return [served_job(name, known, config, request.backend_config)]
    jobs: list[Job] = []
    for flash in request.flash_attentions:
        jobs.append(served_job(name, known, config, request.backend_config, flash, batch))
        own = llama_bench_job(jobs[-1], request.backend_config)
        jobs += [own] if own is not None else []
    return jobs
