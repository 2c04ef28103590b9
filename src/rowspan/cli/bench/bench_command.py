"""`rowspan bench`: llama-bench's grid over Rowspan's engine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rowspan.bench.job import Job
    from rowspan.bench.machine.roofline import Ceilings, Roofs

Values = list[str] | None
MANY = "Comma list, or several times."
INT8_CHECK = (
    "In int8 a split differs from a single device by rounding, as both do from float32: whether it computes the same, "
    "--check with --dtype float32 tells."
)
NUMBERS = "Numbers and ranges: 128,256 or 0-512+128 or 1-64*2."


def bench(
    model: Annotated[Values, typer.Option("--model", "-m", help=f"Model, as for `rowspan pull`. {MANY}")] = None,
    backend: Annotated[
        Values, typer.Option("--backend", help=f"native, llamacpp, vllm. {MANY} [default: native]")
    ] = None,
    n_prompt: Annotated[
        Values, typer.Option("--n-prompt", "-p", help=f"Prompt tokens; 0: no such test. {NUMBERS} [default: 512]")
    ] = None,
    n_gen: Annotated[
        Values, typer.Option("--n-gen", "-n", help="Generated tokens; 0: no such test. [default: 128]")
    ] = None,
    pg: Annotated[
        Values, typer.Option("-pg", help="Prompt, then generated tokens, as one test: 512,128. May be given again.")
    ] = None,
    n_depth: Annotated[
        Values, typer.Option("--n-depth", "-d", help="Tokens in the cache before the test, untimed. [default: 0]")
    ] = None,
    parallel: Annotated[
        Values,
        typer.Option("--parallel", "-np", help="Sequences at once: 1,4,16; t/s is of all together. [default: 1]"),
    ] = None,
    split_mode: Annotated[
        Values, typer.Option("--split-mode", "-sm", help=f"none, layer, row. {MANY} [default: layer]")
    ] = None,
    devices: Annotated[
        Values,
        typer.Option("--devices", "-dev", help="Comma list: cpu:0,cpu:1. Again for another. [default: cpu:0]"),
    ] = None,
    tensor_split: Annotated[
        Values, typer.Option("--tensor-split", "-ts", help="Share of each device: 3,1. Again for another.")
    ] = None,
    main_gpu: Annotated[
        Values, typer.Option("--main-gpu", "-mg", help="Place in --devices of the one that split mode none uses.")
    ] = None,
    gpu_layers: Annotated[
        Values,
        typer.Option(
            "--n-gpu-layers", "-ngl", help=f"So many of the first layers on cards. {MANY} [default: by --tensor-split]"
        ),
    ] = None,
    threads: Annotated[
        Values, typer.Option("--threads", "-t", help="Of all CPU devices together. [default: the usable cores]")
    ] = None,
    batch: Annotated[
        Values,
        typer.Option(
            "--batch-size", "-b", help="Tokens an engine is handed at once; no step is larger. [its own choice]"
        ),
    ] = None,
    ubatch: Annotated[
        Values, typer.Option("--ubatch-size", "-ub", help="Tokens computed in one step. [default: 512]")
    ] = None,
    cache_type_k: Annotated[
        Values,
        typer.Option("--cache-type-k", "-ctk", help="f32, bf16, f16, q8_0, i16. [default: --dtype; i16 for int8]"),
    ] = None,
    cache_type_v: Annotated[Values, typer.Option("--cache-type-v", "-ctv", help="Likewise.")] = None,
    flash_attn: Annotated[Values, typer.Option("--flash-attn", "-fa", help="on, off, auto: llama.cpp's.")] = None,
    dtype: Annotated[Values, typer.Option("--dtype", help=f"What is computed with. {MANY}")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, help="Of every test.")] = 5,
    output: Annotated[str, typer.Option("--output", "-o", help="md, json, jsonl, csv or sql.")] = "md",
    delay: Annotated[float, typer.Option("--delay", min=0.0, help="Seconds of rest before every test.")] = 0.0,
    cool_below: Annotated[
        float | None, typer.Option("--cool-below", help="Wait before every repetition until all is below so many °C.")
    ] = None,
    pause_others: Annotated[
        bool,
        typer.Option(
            "--pause-others/--no-pause-others", help="Engines that are loaded do not run while another is measured."
        ),
    ] = True,
    wake: Annotated[bool, typer.Option("--wake", help="Also measure how long each engine takes to wake up.")] = False,
    backend_args: Annotated[
        str, typer.Option("--backend-args", help="Options for llama-server, or for vLLM, as these name them.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="First compare greedy tokens and log-probabilities with a single device.")
    ] = False,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Skip the untimed run before every test.")] = False,
    no_ceilings: Annotated[
        bool, typer.Option("--no-ceilings", help="Do not measure the machine's ceilings first.")
    ] = False,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep no results for `compare` and `report`.")] = False,
) -> None:
    """Measure tokens per second, as llama-bench does: every combination of the options' values.

    Results go to stdout as they come, progress to stderr, and both rows and circumstances into a store, for
    `rowspan compare` and `rowspan report`. Repetitions go round over the configurations, so that drift hits all alike.
    """
    from rowspan import hub
    from rowspan.backends.find_model import find_model
    from rowspan.backends.protocol import BackendName
    from rowspan.bench.engines.split_check import Checker
    from rowspan.bench.grid import Grid, workloads
    from rowspan.bench.results.formats import FORMATS
    from rowspan.bench.results.markdown import OPTIONAL, Expected
    from rowspan.bench.run.plan_jobs import BenchRequest, plan_jobs
    from rowspan.bench.run.ranges import alternatives, parse_names, parse_numbers, parse_pairs
    from rowspan.bench.run.rounds import Procedure, measure_jobs
    from rowspan.cli.bench.bench_progress import BenchProgress
    from rowspan.cli.progress import terminal_progress
    from rowspan.config import DTYPES, BackendConfig, EngineConfig, HubConfig
    from rowspan.hub.file_cache import FileCache
    from rowspan.plan.device import parse_devices, parse_ratios
    from rowspan.plan.split_mode import SplitMode
    from rowspan.quant.cache_types import CacheKernels, cache_options

    cache_names = cache_options(CacheKernels.NATIVE, CacheKernels.TENSORS)
    work = workloads(
        parse_numbers("-p", n_prompt or ["512"]),
        parse_numbers("-n", n_gen or ["128"]),
        parse_pairs("-pg", pg or ()),
        parse_numbers("-d", n_depth or ["0"]),
        parse_numbers("-np", parallel or ["1"], least=1),
    )
    grid = Grid(
        devices=[parse_devices(text) for text in alternatives(devices or ["cpu:0"])],
        split_modes=[SplitMode(name) for name in parse_names("-sm", split_mode or ["layer"], SplitMode)],
        main_gpus=parse_numbers("-mg", main_gpu or ["0"]),
        tensor_splits=[parse_ratios(text) for text in alternatives(tensor_split or ())] or [None],
        dtypes=parse_names("--dtype", dtype, DTYPES) if dtype else [None],
        cache_types_k=parse_names("-ctk", cache_type_k, cache_names) if cache_type_k else [None],
        cache_types_v=parse_names("-ctv", cache_type_v, cache_names) if cache_type_v else [None],
        token_budgets=parse_numbers("-ub", ubatch or [str(EngineConfig.token_budget)], least=1),
        threads=parse_numbers("-t", threads, least=1) if threads else [None],
        gpu_layers=parse_numbers("-ngl", gpu_layers, least=1) if gpu_layers else [None],
    )
    (form,) = parse_names("--output", [output], FORMATS)
    backends = [BackendName(name) for name in parse_names("--backend", backend or [BackendName.NATIVE], BackendName)]
    flashes = parse_names("-fa", flash_attn, ("on", "off", "auto")) if flash_attn else [None]
    names = [name for text in model or [hub.DEFAULT_MODEL] for name in text.split(",")]
    only = backends[0] if len(backends) == 1 else None
    models = [find_model(name, only, terminal_progress()) for name in names]
    records = {path: record.sha256 for path, record in FileCache(HubConfig.from_env().cache).records()}
    checksums = {path: records.get(path) for path in (Path(one.location) for one in models)}
    settings = BackendConfig.from_env(arguments=tuple(shlex.split(backend_args)))
    batches = parse_numbers("-b", batch, least=1) if batch else [None]
    checker = Checker() if check else None
    request = BenchRequest(models, checksums, backends, grid, work, settings, flashes, batches, checker)
    jobs = plan_jobs(request, _tell_left_out)
    typed = {
        "check_equal": check,
        "tensor_split": tensor_split,
        "main_gpu": main_gpu,
        "n_gpu_layers": gpu_layers,
        "dtype": dtype,
        "type_k": cache_type_k,
    }
    typed |= {"type_v": cache_type_v, "flash_attn": flash_attn, "n_threads": threads}
    typed |= {"n_batch": batch, "n_ubatch": ubatch or batch}
    roofs = None if no_ceilings else _roofs(jobs)
    procedure = Procedure(repetitions, not no_warmup, delay, cool_below, wake, pause_others)
    with _kept(no_store) as keep, BenchProgress() as progress:
        shown = [name for name in OPTIONAL if typed.get(name)]
        expected = Expected(shown, [job.fields for job in jobs], [workload.name for workload in work])
        rows = FORMATS[form](sys.stdout, expected)
        try:
            for row in measure_jobs(jobs, work, procedure, progress.show, roofs):
                rows.add(keep(row))
        finally:
            rows.finish()
    if check and any(job.fields["dtype"] == "int8" for job in jobs):
        print(INT8_CHECK, file=sys.stderr)


def _tell_left_out(what: str) -> None:
    print(f"Left out: {what}", file=sys.stderr, flush=True)


def _roofs(jobs: Sequence[Job]) -> Roofs:
    """Measure the machine's ceilings and show them, before any result is compared with them."""
    from rowspan.bench.machine import card_ceilings, roofline
    from rowspan.errors import RowspanError

    threads, cards = {}, {}
    for number in sorted({job.fields["n_threads"] for job in jobs if not job.on_cards}):
        if ceilings := roofline.measure(number):
            threads[number] = ceilings
            _show(ceilings, "read")
    for device in sorted({device for job in jobs for device in job.devices if device.kind != "cpu"}):
        try:
            cards[device] = card_ceilings.measure(str(device))
            _show(cards[device], "read and written")
        except RowspanError as error:  # another engine may run there all the same
            print(error, file=sys.stderr, flush=True)
    return roofline.Roofs(threads, cards)


def _show(ceilings: Ceilings, moved: str) -> None:
    read, best = ceilings.read_bytes_per_second, ceilings.best_flops()
    unit = f"{ceilings.best_unit}, {best / 1e9:.0f} G operations/s"
    print(f"Ceilings of {ceilings.of}: {read / 1e9:.1f} GB/s {moved}; {unit}", file=sys.stderr, flush=True)


@contextmanager
def _kept(not_at_all: bool) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Yield a function that stores a row and returns it with its run's number."""
    if not_at_all:
        yield lambda row: row
        return
    from rowspan.bench.results.store import Store
    from rowspan.config import Paths

    with Store(Paths.from_env().bench) as store:
        run = store.new_run()

        def keep(row: dict[str, Any]) -> dict[str, Any]:
            numbered = {**row, "run_id": run}
            store.add(numbered)
            return numbered

        yield keep
        print(f"Run {run} is kept: rowspan compare, rowspan report", file=sys.stderr)
