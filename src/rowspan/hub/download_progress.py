"""How a download tells what it is doing, without knowing who watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class ProgressSink(Protocol):
    """Receives one task after the other. Calls may come from another thread than the one that began the task."""

    def start(self, label: str, total: int | None) -> None:
        """A task begins; `total` is its size in bytes, None when that is unknown."""
        ...

    def advance_to(self, done: int) -> None:
        """`done` bytes of the task are there."""
        ...

    def finish(self) -> None:
        """The task is over, done or not."""
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
    """Start and, come what may, finish a task."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()
