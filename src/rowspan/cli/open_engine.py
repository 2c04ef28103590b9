"""Starting the engine while people watch; for the commands `serve` and `run`."""

from __future__ import annotations

from rowspan.engine.engine import Engine
from rowspan.engine.open import Blueprint
from rowspan.engine.ranks import StartRanks
from rowspan.hub import ProgressSink
from rowspan.hub.progress import task


def open_engine(blueprint: Blueprint, progress: ProgressSink, start: StartRanks | None = None) -> Engine:
    """Load the model, with progress in bytes of its file. start: as for `Engine`."""
    total = sum(size.file for size in blueprint.sizes)
    loaded = 0  # in the end more than the total, where a tensor is read twice: a tied embedding and head

    def report(nbytes: int) -> None:
        nonlocal loaded
        loaded += nbytes
        progress.advance_to(min(loaded, total))

    with task(progress, f"Loading {blueprint.spec.name}", total):
        return Engine(blueprint, report, start)
