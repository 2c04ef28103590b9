"""The interface by which a download reports progress, without knowing who watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class ProgressSink(Protocol):
    """Receives the progress of one task after the other. Calls may come from another thread than the one that began the
    task.
    """

    def start(self, label: str, total: int | None) -> None:
        """Begin a task; `total` is its size in bytes, None if unknown."""
        ...

    def advance_to(self, done: int) -> None:
        """Report that `done` bytes of the task are finished."""
        ...

    def finish(self) -> None:
        """End the task, whether it succeeded or not."""
        ...


class Silent:
    """A ProgressSink that shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        pass

    def advance_to(self, done: int) -> None:
        pass

    def finish(self) -> None:
        pass


@contextmanager
def task(progress: ProgressSink, label: str, total: int | None) -> Iterator[None]:
    """Start a task, and finish it when the block ends, whatever happens."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()
