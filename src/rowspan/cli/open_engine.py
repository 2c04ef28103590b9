"""Starting the engine while people watch; for the commands `serve` and `run`."""

from __future__ import annotations

from rowspan.engine.engine import Engine
from rowspan.engine.open import Blueprint
from rowspan.hub import ProgressSink
from rowspan.hub.progress import task


def open_engine(blueprint: Blueprint, progress: ProgressSink) -> Engine:
    """Load the model, with progress in bytes of its file."""
    loaded = 0

    def report(nbytes: int) -> None:
        nonlocal loaded
        loaded += nbytes
        progress.advance_to(loaded)

    with task(progress, f"Loading {blueprint.spec.name}", sum(size.file for size in blueprint.sizes)):
        return Engine(blueprint, report)
