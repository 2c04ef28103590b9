"""Engines that come with llama-bench's command line: llama.cpp, and Rowspan, whose `bench` speaks the same."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from peers.engine import EngineFailed, measure_inside, package_version, run
from peers.figures import Figure

ROWSPAN_BENCH = (sys.executable, "-c", "from rowspan.cli.main import main; main()", "bench")


def bench(
    command: Sequence[str | Path],
    figures: Sequence[Figure],
    environment: Mapping[str, str] | None = None,
    repetitions: int = 1,
) -> dict[Figure, list[float]]:
    """Rates of figures of one sequence, each of so many repetitions: a call for every depth, since the command line
    combines all with all. Raises as `run`."""
    rates: dict[Figure, list[float]] = {}
    for depth in sorted({figure.n_depth for figure in figures}):
        work = [figure for figure in figures if figure.n_depth == depth]
        prompts = ",".join(str(figure.n_prompt) for figure in work if not figure.n_gen) or "0"
        generations = ",".join(str(figure.n_gen) for figure in work if figure.n_gen) or "0"
        options = ("-p", prompts, "-n", generations, "-d", str(depth), "-r", str(repetitions), "-o", "json")
        for row in json.loads(run([*command, *options], environment)):
            rates[Figure(row["n_prompt"], row["n_gen"], row["n_depth"])] = row["samples_ts"]
    return rates


def batched_bench(
    program: Path, model: Path, options: Sequence[str], figure: Figure, repetitions: int = 1
) -> list[float]:
    """Tokens per second that llama-batched-bench generates for all sequences of a figure together, so many times.
    Raises as `run`."""
    context = figure.n_sequences * (figure.n_prompt + figure.n_gen)
    sequences = ",".join([str(figure.n_sequences)] * repetitions)
    sizes = {"-npp": str(figure.n_prompt), "-ntg": str(figure.n_gen), "-npl": sequences, "-c": str(context)}
    numbers = [text for option in sizes.items() for text in option]
    output = run([program, "-m", model, *options, *numbers, "--output-format", "jsonl"])
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if not rows:
        raise EngineFailed(f"{program.name} gave no row")
    return [float(row["speed_tg"]) for row in rows]


class LlamaCpp:
    """llama-bench, and llama-batched-bench beside it for several sequences."""

    def __init__(self, llama_bench: Path, isa: str | None, threads: int, *, flash_attention: bool) -> None:
        self.isa = isa
        self.name = f"llama.cpp -fa {'on' if flash_attention else 'off'}"
        self._bench = llama_bench
        self._batched_bench = llama_bench.with_name("llama-batched-bench")
        self._options = ("-t", str(threads), "-fa", "on" if flash_attention else "off")

    def version(self) -> str:
        return run(["sh", "-c", '"$0" --version 2>&1', self._bench]).strip()

    def measure(self, model: Path, figures: Sequence[Figure]) -> dict[Figure, float]:
        single = [figure for figure in figures if figure.n_sequences == 1]
        rates = means(bench([self._bench, "-m", model, *self._options], single))
        for figure in figures:
            if figure.n_sequences > 1 and self._batched_bench.exists():
                (rates[figure],) = batched_bench(self._batched_bench, model, self._options, figure)
        return rates


class Rowspan:
    """`rowspan bench` of this interpreter; several sequences as concurrent requests to the whole engine."""

    name = "rowspan"

    def __init__(self, isa: str | None, threads: int) -> None:
        self.isa = isa
        self._threads = threads
        self._environment = {"ROWSPAN_CPU_ISA": isa or ""}

    def version(self) -> str:
        return package_version(Path(sys.executable), "rowspan")

    def measure(self, model: Path, figures: Sequence[Figure]) -> dict[Figure, float]:
        single = [figure for figure in figures if figure.n_sequences == 1]
        many = [figure for figure in figures if figure.n_sequences > 1]
        rates = means(bench([*ROWSPAN_BENCH, "-m", model, "-t", str(self._threads)], single, self._environment))
        if many:
            python = Path(sys.executable)
            rates |= measure_inside(python, "run_rowspan.py", model, many, self._threads, self._environment)
        return rates


def means(samples: Mapping[Figure, Sequence[float]]) -> dict[Figure, float]:
    return {figure: statistics.fmean(rates) for figure, rates in samples.items()}
