"""The command `rowspan`. Commands import what they need when they run, so that `rowspan --help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rowspan.cli.bench.bench_command import bench
from rowspan.cli.bench.compare import compare
from rowspan.cli.bench.loadtest import loadtest
from rowspan.cli.bench.report import report
from rowspan.cli.compose import compose
from rowspan.cli.devices import devices
from rowspan.cli.doctor import doctor
from rowspan.cli.models import models
from rowspan.cli.plan.command import plan
from rowspan.cli.pull import pull
from rowspan.cli.run import run
from rowspan.cli.selftest import selftest
from rowspan.cli.serve import serve
from rowspan.cli.tune import tune
from rowspan.errors import RowspanError

# Plain help and plain tracebacks: rich's would cost half of the time that `rowspan --help` takes.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(run)
app.command()(serve)
app.command()(pull)
app.command()(models)
app.command()(plan)
app.command()(bench)
app.command()(tune)
app.command()(compare)
app.command()(report)
app.command()(loadtest)
app.command()(selftest)
app.command()(devices)
app.command()(doctor)
app.command()(compose)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"rowspan {importlib.metadata.version('rowspan')}")
        raise typer.Exit


@app.callback()
def rowspan(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One OpenAI-compatible LLM service out of all the cards (or sockets) of one workstation."""


def main() -> None:
    """Run the command line and exit: 0, 1 for a failure, 2 for a wrong request, 130 after Ctrl-C."""
    try:
        app()
    except RowspanError as error:
        from rowspan.cli.console_output import print_error

        print_error(error)
        sys.exit(error.exit_code)
