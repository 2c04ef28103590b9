"""`rowspan bench`: llama-bench's grid over Rowspan's engine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

Values = list[str] | None
MANY = "Comma list, or several times."
NUMBERS = "Numbers and ranges: 128,256 or 0-512+128 or 1-64*2."


def bench(
    model: Annotated[Values, typer.Option("--model", "-m", help=f"Model, as for `rowspan pull`. {MANY}")] = None,
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
    threads: Annotated[
        Values, typer.Option("--threads", "-t", help="Of all CPU devices together. [default: the usable cores]")
    ] = None,
    ubatch: Annotated[
        Values, typer.Option("--ubatch-size", "-ub", help="Tokens computed in one step. [default: 512]")
    ] = None,
    cache_type_k: Annotated[
        Values,
        typer.Option("--cache-type-k", "-ctk", help="f32, bf16, f16, q8_0, i16. [default: --dtype; i16 for int8]"),
    ] = None,
    cache_type_v: Annotated[Values, typer.Option("--cache-type-v", "-ctv", help="Likewise.")] = None,
    dtype: Annotated[Values, typer.Option("--dtype", help=f"What is computed with. {MANY}")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, help="Of every test.")] = 5,
    output: Annotated[str, typer.Option("--output", "-o", help="md, json, jsonl, csv or sql.")] = "md",
    delay: Annotated[float, typer.Option("--delay", min=0.0, help="Seconds of rest before every test.")] = 0.0,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Skip the untimed run before every test.")] = False,
) -> None:
    """Measure tokens per second, as llama-bench does: every combination of the options' values.

    Results go to stdout as they come, progress to stderr.
    """
    from rowspan import hub
    from rowspan.bench.formats import FORMATS, OPTIONAL
    from rowspan.bench.grid import Grid, notable, workloads
    from rowspan.bench.ranges import alternatives, parse_names, parse_numbers, parse_pairs
    from rowspan.bench.run import Procedure, draw_up_jobs, measure_jobs
    from rowspan.cli.progress import terminal_progress
    from rowspan.config import CACHE_TYPES, DTYPES, EngineConfig
    from rowspan.plan.device import parse_devices, parse_ratios
    from rowspan.plan.split import SplitMode

    work = workloads(
        parse_numbers("-p", n_prompt or ["512"]),
        parse_numbers("-n", n_gen or ["128"]),
        parse_pairs("-pg", pg or ()),
        parse_numbers("-d", n_depth or ["0"]),
    )
    grid = Grid(
        devices=[parse_devices(text) for text in alternatives(devices or ["cpu:0"])],
        split_modes=[SplitMode(name) for name in parse_names("-sm", split_mode or ["layer"], SplitMode)],
        main_gpus=parse_numbers("-mg", main_gpu or ["0"]),
        tensor_splits=[parse_ratios(text) for text in alternatives(tensor_split or ())] or [None],
        dtypes=parse_names("--dtype", dtype, DTYPES) if dtype else [None],
        cache_types_k=parse_names("-ctk", cache_type_k, CACHE_TYPES) if cache_type_k else [None],
        cache_types_v=parse_names("-ctv", cache_type_v, CACHE_TYPES) if cache_type_v else [None],
        token_budgets=parse_numbers("-ub", ubatch or [str(EngineConfig.token_budget)], least=1),
        threads=parse_numbers("-t", threads, least=1) if threads else [None],
    )
    (form,) = parse_names("--output", [output], FORMATS)
    names = [name for text in model or [hub.DEFAULT_MODEL] for name in text.split(",")]
    files = [hub.resolve(name, progress=terminal_progress()) for name in names]
    jobs = draw_up_jobs({file.path: file.sha256 for file in files}, grid, work)
    progress = _Progress()
    rows = FORMATS[form](sys.stdout, notable([job.blueprint.config for job in jobs], OPTIONAL))
    try:
        for row in measure_jobs(jobs, work, Procedure(repetitions, not no_warmup, delay), progress.show):
            progress.clear()
            rows.add(row)
    finally:
        progress.clear()
        rows.finish()


class _Progress:
    """What is going on, on stderr: one line that is written over in a terminal, a line each elsewhere."""

    def __init__(self) -> None:
        self._overwrites = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._overwrites:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._overwrites:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
