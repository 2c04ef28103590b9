"""Output to people that all commands share: errors, tables, sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from rowspan.cli.terminal import UNLIMITED_WIDTH
from rowspan.errors import RowspanError


def stderr_console() -> Console:
    """A console for everything that is not the command's result."""
    return Console(stderr=True, soft_wrap=True)


def size_text(size: int) -> str:
    """A number of bytes in readable form, in powers of ten: "98.4 MB"."""
    return decimal(size)


def print_error(error: RowspanError) -> None:
    """Print to stderr what happened, why, and what to do."""
    console = stderr_console()
    console.print(Text.assemble(("Error: ", "bold red"), error.what))
    if error.why:
        console.print(Text.assemble(("  Why: ", "bold"), error.why))
    if error.fix:
        console.print(Text.assemble(("  Fix: ", "bold green"), error.fix))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout, without frames, so that other programs can read it too."""
    console = Console(width=None if sys.stdout.isatty() else UNLIMITED_WIDTH)
    table = Table(*header, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
    console.print()
