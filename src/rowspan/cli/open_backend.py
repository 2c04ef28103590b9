"""Starts a backend while a user watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rowspan.backends.protocol import Backend, BackendName, LoadWatch
from rowspan.hub import ProgressSink
from rowspan.hub.download_progress import task

LINE_SECONDS = 10.0  # time between lines of progress if there is no terminal
SHOWN = 100  # characters shown of a child's line


@contextmanager
def started(backend: Backend, model_name: str, progress: ProgressSink) -> Iterator[None]:
    """Load the model while `progress` or stderr shows how far it is; stop the backend when the block ends."""
    label = f"Loading {model_name}"
    try:
        with _bytes_shown(label, progress) if backend.name == BackendName.NATIVE else _lines_shown(label) as watch:
            backend.start(watch)
        yield
    finally:
        backend.stop()


@contextmanager
def _bytes_shown(label: str, progress: ProgressSink) -> Iterator[LoadWatch]:
    """Show how many bytes of the model have been read."""
    with ExitStack() as bar:
        is_begun = False

        def read(done: int, total: int) -> None:
            nonlocal is_begun
            if not is_begun:
                is_begun = True
                bar.enter_context(task(progress, label, total))
            progress.advance_to(done)

        yield LoadWatch(read=read)


@contextmanager
def _lines_shown(label: str) -> Iterator[LoadWatch]:
    """Show the other program's last line: in place in a terminal, now and then elsewhere."""
    if not sys.stderr.isatty():
        print(label, file=sys.stderr, flush=True)
        yield LoadWatch(said=_now_and_then(label))
        return
    from rich.console import Console
    from rich.text import Text

    began = time.monotonic()
    console = Console(stderr=True)
    with console.status(Text(label)) as status:

        def said(line: str) -> None:
            width = max(20, console.width - len(label) - 14)
            status.update(Text(f"{label}, {time.monotonic() - began:.0f} s: {_plain(line)[:width]}"))

        yield LoadWatch(said=said)


def _now_and_then(label: str) -> Callable[[str], None]:
    began = shown = time.monotonic()

    def said(line: str) -> None:
        nonlocal shown
        if time.monotonic() - shown > LINE_SECONDS:
            shown = time.monotonic()
            print(f"{label}, {shown - began:.0f} s: {_plain(line)[:SHOWN]}", file=sys.stderr, flush=True)

    return said


def _plain(line: str) -> str:
    """Remove from a line what would move a terminal's cursor; keep the last state of a line that was drawn over."""
    last = line.rstrip("\r").rpartition("\r")[2]
    return "".join(character for character in last if character.isprintable()) or os.linesep.strip()
