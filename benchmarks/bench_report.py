"""Makes docs/bench: every engine and split on one model, measured here and now. Let the machine do nothing else.

    python benchmarks/bench_report.py --model smollm2-135m-q8_0.gguf

ROWSPAN_LLAMACPP_DIR and ROWSPAN_VLLM_PYTHON say where the other engines are; those not found are left out and named.
The model's Hugging Face folder, for vLLM, is made beside the file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_folder import convert

DOCS = Path(__file__).resolve().parent.parent / "docs" / "bench"
ROWSPAN = (sys.executable, "-c", "from rowspan.cli.main import main; main()")
# The machine as one device, for all engines; its halves, for the one that splits a model over parts of a processor.
WHOLE = ("-sm", "none", "-dev", "cpu:0")
HALVES = ("-sm", "none,layer,row", "-dev", "cpu:0,cpu:1")
# One run each, so that no test is combined with all the others: rates, depth, concurrency.
RATES = ("-p", "512", "-n", "128,1024")
DEPTH = ("-p", "512", "-n", "128", "-d", "4096")
CONCURRENCY = ("-p", "0", "-n", "128", "-np", "4,16")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, required=True, help="a GGUF file")
    options.add_argument("--backend", default="native,llamacpp,vllm")
    options.add_argument("--repetitions", "-r", type=int, default=5)
    options.add_argument("--out", type=Path, default=DOCS)
    options.add_argument("--database", type=Path, default=Path("bench-report.sqlite"), help="begun anew")
    given = options.parse_args()
    backends = given.backend.split(",")
    folder = given.model.with_suffix(".hf")
    if "vllm" in backends and not folder.exists():
        convert(given.model, folder)
    given.database.unlink(missing_ok=True)
    # vLLM takes a share of all memory else, so that the others would not fit beside it.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "ROWSPAN_BENCH_DB": str(given.database)}

    def bench(engines: Sequence[str], *options: str) -> None:
        models = [given.model, folder] if "vllm" in engines else [given.model]
        common = ("-m", ",".join(map(str, models)), "--backend", ",".join(engines), "-r", str(given.repetitions))
        _rowspan(("bench", *common, *options), environment)

    for tests in (RATES, DEPTH, CONCURRENCY):
        bench(backends, *WHOLE, *tests)
        if "native" in backends:
            bench(["native"], *HALVES, *tests)
    _rowspan(("report", "--all", "-o", str(given.out)), environment)


def _rowspan(arguments: Sequence[str], environment: dict[str, str]) -> None:
    """An engine that fails is left out and named by the command; the others' results stand."""
    done = subprocess.run([*ROWSPAN, *arguments], env=environment, check=False)
    if done.returncode not in (0, 1) or (done.returncode and arguments[0] == "report"):
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
