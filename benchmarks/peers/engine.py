"""What every engine to be measured offers, and how it is called."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from peers.figures import Figure

INSIDE = Path(__file__).parent / "inside"  # scripts that an engine's own interpreter runs
LONGEST_RUN = 3600.0  # seconds


class EngineFailed(Exception):
    """An engine did not give its figures; the message is the end of what it said."""


class Engine(Protocol):
    """One engine with one set of options. isa: the instruction set it is held to; None: the best there is."""

    name: str
    isa: str | None

    def version(self) -> str: ...

    def measure(self, model: Path, figures: Sequence[Figure]) -> Mapping[Figure, float]:
        """Tokens per second, once each, after a warm-up; figures that the engine cannot give are left out.

        Raises:
            EngineFailed: it gave none.
        """
        ...


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a program.

    Raises:
        EngineFailed: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineFailed(str(error)) from error
    if done.returncode:
        raise EngineFailed(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def run_inside(
    python: Path, script: str, job: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The answer of one of the scripts: an object on its last line.

    Raises:
        EngineFailed: as `run`.
    """
    answer: dict[str, Any] = json.loads(run([python, INSIDE / script, json.dumps(job)], environment).splitlines()[-1])
    return answer


def measure_inside(
    python: Path,
    script: str,
    model: Path,
    figures: Sequence[Figure],
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> dict[Figure, float]:
    """Rates that one of the scripts measures. Raises as `run`."""
    work = [vars(figure) for figure in figures]
    rates = run_inside(python, script, {"model": str(model), "threads": threads, "figures": work}, environment)["rates"]
    return {figure: rate for figure, rate in zip(figures, rates, strict=True) if rate is not None}


def package_version(python: Path, package: str) -> str:
    """Version of an installed package. Raises as `run`."""
    return run([python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]).strip()
