"""Runs llama.cpp's own llama-bench, whose figure stands beside that of its server. It measures one sequence."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from rowspan.backends.process import guardian
from rowspan.backends.process.programs import find_llamacpp_program
from rowspan.bench.grid import Workload
from rowspan.bench.job import Job, LoadFacts, Sample
from rowspan.config import BackendConfig
from rowspan.errors import EngineError

ENGINE = "llama-bench"
LONGEST = 3600.0  # most seconds that one repetition may take
END_SECONDS = 2.0  # time to end by itself when the benchmark is interrupted
# The server's options → llama-bench's, and the separator of lists there.
TRANSLATED = {
    "--model": "-m",
    "--device": "-dev",
    "--split-mode": "-sm",
    "--main-gpu": "-mg",
    "--n-gpu-layers": "-ngl",
    "--cache-type-k": "-ctk",
    "--cache-type-v": "-ctv",
    "--ubatch-size": "-ub",
    "--batch-size": "-b",
    "--threads": "-t",
    "--flash-attn": "-fa",
    "--tensor-split": "-ts",
}
LISTS = ("--device", "--tensor-split")


def llama_bench_job(server: Job, backend: BackendConfig) -> Job | None:
    """A job that does the same work as a server's job, with the same options; None if no llama-bench is installed."""
    program = find_llamacpp_program(ENGINE, backend)
    if program is None:
        return None
    call = [str(program), *options(shlex.split(server.fields["engine_flags"]))]
    return replace(
        server,
        label=server.label.replace("llamacpp", ENGINE, 1),
        fields={**server.fields, "engine": ENGINE, "engine_flags": " ".join(call[1:])},
        start=partial(LlamaBenchRunner, call),
        most_concurrent=1,
    )


def options(command: Sequence[str]) -> list[str]:
    """Translate a server's command line into llama-bench's options; options that only a server has are left out."""
    found: dict[str, str] = {}  # a server heeds the last of several, llama-bench would measure them all
    for option, value in pairwise(command):
        if option in TRANSLATED:
            found[TRANSLATED[option]] = value.replace(",", "/") if option in LISTS else value
    return [word for pair in found.items() for word in pair]


class LlamaBenchRunner:
    """The `rowspan.bench.job.Runner` of llama-bench. Every repetition is a process of its own, which loads the model
    and warms up.
    """

    def __init__(self, call: Sequence[str]) -> None:
        self._call = tuple(call)
        self.facts = LoadFacts(0.0, None, None)

    def prepare(self, workload: Workload, *, warm_up: bool) -> None:
        """Do nothing: llama-bench warms up by itself, in every repetition."""

    def measure(self, workload: Workload) -> Sample:
        started = time.perf_counter()
        row = self._run(workload)
        (sample,) = row["samples_ns"]
        self.facts = LoadFacts(time.perf_counter() - started - sample / 1e9, None, None)
        return Sample(sample)

    def processes(self) -> Sequence[int]:
        """No ids: llama-bench only runs while it is measured."""
        return ()

    def rouse(self) -> None:
        """Do nothing: no process of llama-bench was paused."""

    def peak_memory(self) -> int | None:
        return None

    def wake_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        """Do nothing: no process is left running."""

    def _run(self, workload: Workload) -> Mapping[str, list[int]]:
        both = ["-pg", f"{workload.n_prompt},{workload.n_gen}", "-p", "0", "-n", "0"]
        single = ["-p", str(workload.n_prompt), "-n", str(workload.n_gen)]
        work = both if workload.n_prompt and workload.n_gen else single
        call = [*self._call, *work, "-d", str(workload.n_depth), "-r", "1", "-o", "json"]
        try:
            done = _guarded(call)
            (row,) = json.loads(done.stdout)
            if not row["samples_ns"]:
                raise ValueError("a row without samples")
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "nothing").strip()[-1000:]
            raise _failed(f"It ended with code {error.returncode}, and said: {said}") from None
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            raise _failed(f"{error!r:.1000}") from error
        result: Mapping[str, list[int]] = row
        return result


def _guarded(call: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends or this process does, whatever ends it. Raises the same as `subprocess.run`."""
    guard = (sys.executable, "-I", "-S", guardian.__file__, str(END_SECONDS))
    lifeline, ours = os.pipe()  # closed with this process, which is the guardian's sign
    try:
        return subprocess.run(
            [*guard, *call], stdin=lifeline, capture_output=True, text=True, timeout=LONGEST, check=True
        )
    finally:
        os.close(lifeline)
        os.close(ours)


def _failed(why: str) -> EngineError:
    return EngineError(f"{ENGINE} gave no result.", why=why, fix="Run it by itself, to see what is wrong.")
