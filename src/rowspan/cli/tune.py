"""`rowspan tune`: finds the fastest tiles of Triton's kernels for a model on this machine's cards."""

from __future__ import annotations

from typing import Annotated

import typer

PROGRAM = "rowspan.worker.tune"  # a process of its own: this one imports no torch


def tune(
    model: Annotated[str, typer.Argument(help="Model, as for `rowspan pull`.")],
    devices: Annotated[
        str, typer.Option("--devices", "-dev", help="Cards, as for `rowspan serve`; of each kind one is tuned.")
    ] = "cuda:0",
    dtype: Annotated[str, typer.Option("--dtype", help="What the model is run in: bfloat16 or float16.")] = "bfloat16",
    token_budget: Annotated[
        int, typer.Option("--ubatch-size", "-ub", min=1, help="Tokens computed in one step, at most.")
    ] = 512,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.0, help="Stop after so long; what matters most comes first.")
    ] = 10.0,
) -> None:
    """Time ways of computing a model's matrices on a card, and keep the fastest for later runs."""
    import os
    import subprocess
    import sys

    from rowspan import hub
    from rowspan.cli.progress import terminal_progress
    from rowspan.comm.environment import rank_environment
    from rowspan.config import Paths
    from rowspan.errors import UsageError
    from rowspan.kernels.isa import TRITON, TRITON_DTYPES, card_kernels
    from rowspan.plan.device import parse_devices
    from rowspan.rig.root import Root

    if any(device.kind == "cpu" for device in parse_devices(devices)):
        raise UsageError(
            f"--devices {devices} is not only cards.",
            why="Kernels for CPUs are not tuned.",
            fix="Name cards only, such as --devices cuda:0.",
        )
    if dtype not in TRITON_DTYPES:
        raise UsageError(f"--dtype {dtype} is not tuned.", fix=f"Choose one of {', '.join(TRITON_DTYPES)}.")
    if TRITON not in card_kernels():
        raise UsageError(
            "There is nothing to tune: Triton is not installed.",
            why="Other kernels for cards are torch's, which choose by themselves.",
            fix="Install the build of torch that is made for your card: Triton comes with it.",
        )
    path = hub.resolve(model, progress=terminal_progress()).path
    command = [sys.executable, "-P", "-m", PROGRAM, devices, dtype, str(token_budget), str(60 * minutes), str(path)]
    environment = rank_environment(os.environ, Root())
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stderr is not None, "asked for above"
        said = child.stderr.read()
    if child.returncode:
        raise _failure(said, child.returncode)
    typer.echo(f"Kept in {Paths.from_env().tuning}.")


def _failure(said: str, code: int) -> Exception:
    """The error that ended the child process: its own account, or the end of its output."""
    import json

    from rowspan.errors import EngineError, UsageError

    last = (said.strip().splitlines() or [f"It ended with status {code}."])[-1]
    try:
        return UsageError(**json.loads(last))
    except (ValueError, TypeError):
        return EngineError("Tuning failed.", why=last, fix="What was found before is kept; default tiles do the rest.")
