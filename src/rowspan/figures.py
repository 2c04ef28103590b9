"""Figures of matplotlib, an optional part: the errors of not having it, and of files that cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowspan.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144  # of pictures in pixels: sharp on a page twice as dense as matplotlib's usual 72


def matplotlib() -> Any:
    """The library. Raises UsageError: it is missing."""
    try:
        import matplotlib.figure
    except ModuleNotFoundError:
        raise UsageError(
            "Charts need matplotlib, which is not installed.", fix="pip install 'rowspan[plot]', or ask for no chart."
        ) from None
    return matplotlib


def new_figure(width: float, height: float) -> Figure:
    """An empty one, of so many inches. Raises UsageError: matplotlib is missing."""
    figure: Figure = matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write it, in the format that the file's name ends in. Raises UsageError: such a file cannot be written there."""
    try:
        figure.savefig(path, dpi=DPI)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The chart cannot be written to {path}.", why=f"{error}.", fix="Name a .png or .svg."
        ) from None
