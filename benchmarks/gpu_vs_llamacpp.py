"""Rowspan beside llama.cpp on one card: builds llama.cpp, checks outputs, and times all that was promised, in one call.

    python benchmarks/gpu_vs_llamacpp.py --llamacpp-source llama_cpp_python-0.3.36.tar.gz

Both sides take turns, round after round, until the time is nearly over; figures are medians. The table comes last. What
fails or finds no time is named; nothing is left out in silence. See benchmarks/README.md.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))
if importlib.util.find_spec("rowspan") is None:  # a card's machine need not have it installed
    sys.path.append(str(HERE.parent / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), sys.path[-1])))  # of workers

from gpu import table  # noqa: E402
from gpu.build import Build  # noqa: E402
from gpu.clock import Clock, limit  # noqa: E402
from gpu.models import BenchModel, choose_models  # noqa: E402
from gpu.options import parse_options  # noqa: E402
from gpu.outputs import Outputs, check_outputs  # noqa: E402
from gpu.rows import PROMISED, TINY, Row, rows_of  # noqa: E402
from gpu.sides import LlamaCpp, Rowspan, Side  # noqa: E402
from peers.engine import EngineFailed, run  # noqa: E402
from peers.figures import Figure  # noqa: E402

from rowspan.bench.engines.native_jobs import gguf_facts  # noqa: E402
from rowspan.bench.machine import card_ceilings  # noqa: E402
from rowspan.bench.machine.circumstances import look, machine_fields, this_machine  # noqa: E402
from rowspan.bench.model_demand import Demand  # noqa: E402
from rowspan.plan.device import parse_devices  # noqa: E402

REPORTING = 10.0  # seconds that are kept to end everything and to print
SHORT = 12.0  # seconds for a part of a turn below which there is one repetition only
PATIENCE = 4.0  # times its share of the time that is left: what takes longer would leave none for others
SHARING_REPETITIONS = 3
ROOM_FOR_BOTH = 2.5  # times the bytes of all models: then they may stay loaded


class Benchmark:
    """One call, and what it has found so far."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._clock = Clock(options.minutes)
        (self._device,) = parse_devices(options.device)
        folder = options.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._models = models = choose_models(options.models, folder, options.smollm2)
        figures = TINY if options.models == "tiny" else PROMISED
        rows = rows_of(models.large_q8_0.name, models.large_q4_k_m.name, models.small.name, figures)
        self._rows = [row for row in rows if any(part in row.name for part in options.rows)]
        if not self._rows:
            sys.exit(f"--rows names none of: {', '.join(row.name for row in rows)}")
        self._ceilings: dict[str, Any] | None = None
        self._demands: dict[str, Demand] = {}
        self._ready: list[BenchModel] = []
        self._outputs: Outputs | None = None
        self._rates: dict[tuple[str, str], list[float]] = {}
        self._failures: dict[str, str] = {}
        self._notes: list[str] = []
        self._rounds = 0
        self._began = datetime.now(UTC)
        self._root, rig = this_machine()
        self._machine, self._before = machine_fields(rig, self._root), look(self._root)
        self._binaries: Path | None = options.llamacpp_binaries
        self._llamacpp_version = ""

    def run(self) -> None:
        """All steps. A step's failure is noted, and the others go on."""
        self._step("ceilings", self._measure_ceilings)
        build: list[Build] = []
        try:
            if self._binaries is None and self._options.llamacpp_source is not None:
                self._step("llama.cpp", lambda: build.append(self._begin_build()))
            for model in self._models.all:  # while it is being built: nothing is timed that is told
                self._step(model.name, partial(self._make, model))
            if self._options.tune:
                self._step("tuning", self._tune)
            self._step("outputs", self._check_outputs)
            self._step("two ranks on one card", self._share_card)
            ours = self._our_side()
            for model in self._ready:
                self._step(f"rowspan: first run of {model.name}", partial(ours.warm_up, model, self._figures(model)))
                ours.rest()
            for begun in build:
                self._step("llama.cpp", partial(self._await_build, begun))
        finally:
            for begun in build:
                begun.close()
        self._measure(ours)

    def _measure_ceilings(self) -> None:
        self._ceilings = card_ceilings.ask(str(self._device))

    def _begin_build(self) -> Build:
        if self._ceilings is None:  # a build for the processor would be timed as one for the card
            raise EngineFailed(f"what to build it for is not known: {self._failures['ceilings']}")
        return Build(self._options.llamacpp_source, self._options.folder / "llamacpp", self._ceilings)

    def _await_build(self, build: Build) -> None:
        build.wait(min(60 * self._options.build_minutes - self._clock.seconds, self._left - 1))
        self._binaries = build.binaries

    def _make(self, model: BenchModel) -> None:
        if model.make is not None:
            model.make()
        self._demands[model.name] = model.demand()
        self._ready.append(model)

    def _check_outputs(self) -> None:
        self._outputs = check_outputs(self._models.small.path, self._device, self._options.dtype)

    def _share_card(self) -> None:
        """What a sum costs two ranks of one card, through the host's memory: the way of cards without peer access."""
        small, options, seconds = self._models.small, self._options, []
        figure = (TINY if options.models == "tiny" else PROMISED).generation
        for ranks in (1, 2):
            side = Rowspan(self._device, options.batch, options.dtype, [figure], ranks=ranks)
            try:
                rates = side.measure(small, [figure], SHARING_REPETITIONS)[figure]
            finally:
                side.close()
            seconds.append(1 / statistics.median(rates))
        sums = 2 * gguf_facts(small.path)[2].n_layers
        self._notes.append(
            f"two ranks on one card, {small.name} by row: {1e3 * seconds[1]:.2f} ms a token, one rank "
            f"{1e3 * seconds[0]:.2f}: {1e6 * (seconds[1] - seconds[0]) / sums:.0f} µs for each of {sums} sums "
            "through the host's memory"
        )

    def _tune(self) -> None:
        options = self._options
        what = str(self._device), options.dtype or "bfloat16", str(options.batch), str(options.tune_share * self._left)
        paths = [model.path for model in self._ready]
        done = run([sys.executable, "-m", "rowspan.worker.tune", *what, *paths])
        self._notes.append(f"tuned: {done.splitlines()[-1]}")

    def _measure(self, ours: Rowspan) -> None:
        """Rounds, until the next would not end in time."""
        sides: list[Side] = [ours]
        if (binaries := self._binaries) is not None:
            self._step("llama.cpp", lambda: sides.append(self._their_side(binaries)))
        elif self._options.llamacpp_source is None:
            self._failures["llama.cpp"] = "neither --llamacpp-source nor --llamacpp-binaries was given"
        longest = 0.0
        try:
            while self._rounds < self._options.rounds and (not self._rounds or self._left > longest):
                began = self._clock.seconds
                self._round(sides[::-1] if self._rounds % 2 else sides)
                longest = max(longest, self._clock.seconds - began)
        finally:
            for side in sides:
                side.close()

    def _our_side(self) -> Rowspan:
        options, figures = self._options, [row.figure for row in self._rows]
        memory = (self._ceilings or {}).get("memory_bytes")
        files = sum(model.path.stat().st_size for model in self._ready)
        keep = memory is None or memory > ROOM_FOR_BOTH * files
        return Rowspan(self._device, options.batch, options.dtype, figures, keep=keep)

    def _their_side(self, binaries: Path) -> Side:
        side = LlamaCpp(binaries, self._device, self._options.batch, self._options.llamacpp_args)
        self._llamacpp_version = side.version()
        return side

    def _round(self, sides: Sequence[Side]) -> None:
        """Every row of every model once, on both sides."""
        turns = [(model, side) for model in self._ready for side in sides]
        parts = sum(len(side.parts(self._figures(model))) for model, side in turns)
        for model, side in turns:
            for part in side.parts(self._figures(model)):
                each = self._left / parts
                repetitions = self._options.repetitions if each > SHORT else 1
                name = f"{side.name}: {', '.join(Row.name_of(model.name, figure) for figure in part)}"
                work = partial(self._take, side, model, part, repetitions)
                self._step(name, work, max(PATIENCE * each, SHORT))
                parts -= 1
            side.rest()
        self._rounds += 1

    def _figures(self, model: BenchModel) -> list[Figure]:
        return [row.figure for row in self._rows if row.model == model.name]

    def _take(self, side: Side, model: BenchModel, figures: Sequence[Figure], repetitions: int) -> None:
        for figure, rates in side.measure(model, figures, repetitions).items():
            self._rates.setdefault((Row.name_of(model.name, figure), side.name), []).extend(rates)

    @property
    def _left(self) -> float:
        return self._clock.left - REPORTING

    def _step(self, name: str, work: Callable[[], None], seconds: float = math.inf) -> bool:
        """Whether it went well. What goes wrong in it is noted and goes wrong in it alone, whatever it is."""
        print(f"[{self._clock.seconds:5.1f} s] {name}", file=sys.stderr, flush=True)
        try:
            with limit(min(seconds, self._left)):
                work()
        except Exception as error:
            if self._options.verbose:
                traceback.print_exc()
            self._failures[name] = f"{type(error).__name__}: {error}"
            print(f"    {self._failures[name]}", file=sys.stderr, flush=True)
            return False
        return True

    def text(self) -> str:
        """What is printed last."""
        cells = table.table(self._rows, self._rates, self._demands, self._ceilings)
        cells += table.outputs_rows(self._models.small.name, self._outputs)
        facts = self._ceilings or {}
        where = [f"{self._device} ({facts.get('device', 'unknown')})", f"torch {facts.get('torch', '?')}"]
        where += [f"triton {facts.get('triton', '?')}", f"driver {self._machine['driver'] or 'unknown'}"]
        lines = [
            f"rowspan beside {self._llamacpp_version or 'llama.cpp'} on {', '.join(where)}; steps of up to "
            f"{self._options.batch} tokens on both sides; rounds: {self._rounds}, in {self._clock.seconds:.0f} s",
            table.ceilings_line(self._ceilings),
            *self._notes,
            "",
            table.text(cells),
        ]
        lines += [f"failed: {name}: {table.shortened(why)}" for name, why in self._failures.items()]
        return "\n".join(lines)

    def result(self) -> dict[str, Any]:
        """All that is known."""
        return {
            "time": self._began.isoformat(timespec="seconds"),
            "seconds": self._clock.seconds,
            "options": {key: str(value) for key, value in vars(self._options).items()},
            "machine": self._machine,
            "state": {"before": asdict(self._before), "after": asdict(look(self._root))},
            "device": self._ceilings,
            "llamacpp": self._llamacpp_version,
            "rounds": self._rounds,
            "outputs": self._outputs and asdict(self._outputs),
            "rows": [
                {"row": name, "side": side, "median": statistics.median(rates), "tokens_per_second": rates}
                for (name, side), rates in self._rates.items()
            ],
            "notes": self._notes,
            "failures": self._failures,
        }


def main() -> None:
    options = parse_options(__doc__ or "")
    benchmark = Benchmark(options)
    try:
        benchmark.run()
    finally:  # what is done is kept when the run is broken off
        options.output.write_text(json.dumps(benchmark.result(), indent=2) + "\n")
        print(benchmark.text(), flush=True)


if __name__ == "__main__":
    main()
