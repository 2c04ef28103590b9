"""The command `rowspan` as its users meet it: exit status, what it prints where."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from rowspan.cli.main import main

Finished = subprocess.CompletedProcess[str]
PROGRAM = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]


def run_here(*arguments: object, environment: Mapping[str, str] | None = None) -> Finished:
    """Run the command in this process, which takes milliseconds where a new one takes half a second.

    Args:
        environment: all variables that the command has; None: this process's.

    Raises:
        Exception: whatever the command does not turn into an exit status; a process would print its traceback.
    """
    command = ["rowspan", *map(str, arguments)]
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", command),
        patch.dict(os.environ, environment or {}, clear=environment is not None),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Finished(command, status, stdout.getvalue(), stderr.getvalue())


def run_as_process(*arguments: object, environment: Mapping[str, str] | None = None) -> Finished:
    """Run the command in a process of its own, as `run_here` does here."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
