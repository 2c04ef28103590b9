"""Makes figures with matplotlib, an optional dependency, and raises clear errors if it is missing or cannot write a
file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowspan.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144  # of pictures in pixels: sharp on a page twice as dense as matplotlib's usual 72


def has_matplotlib() -> bool:
    """Whether figures can be made here."""
    return importlib.util.find_spec("matplotlib") is not None


def matplotlib() -> Any:
    """The imported library. Raises UsageError if it is missing."""
    try:
        import matplotlib.figure
    except ModuleNotFoundError:
        raise UsageError(
            "Charts need matplotlib, which is not installed.", fix="pip install 'rowspan[plot]', or ask for no chart."
        ) from None
    return matplotlib


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, with its size in inches. Raises UsageError if matplotlib is missing."""
    figure: Figure = matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's name ends in. Raises UsageError if such a file cannot be written
    there.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The chart cannot be written to {path}.", why=f"{error}.", fix="Name a .png or .svg."
        ) from None
