"""What a test leaves behind: processes, open files, temporary folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def leftovers() -> Iterator[Callable[[], set[str]]]:
    """Call what it gives, in the block or after it, for what is there that was not before it.

    Of folders: that were there when the block ended. Temporary ones are made in a folder of its own meanwhile, as other
    programs' come and go in the system's.
    """
    before, usual = _present(), tempfile.tempdir
    at_the_end: set[str] = set()
    with tempfile.TemporaryDirectory() as own:

        def folders() -> set[str]:
            return {path.name for path in Path(own).glob("rowspan-*")}

        tempfile.tempdir = own
        try:
            yield lambda: (_present() - before) | folders() | at_the_end
        finally:
            at_the_end |= folders()
            tempfile.tempdir = usual


def _present() -> set[str]:
    children = {f"process {child.pid}" for child in psutil.Process().children(recursive=True)}
    return children | {f"open file {descriptor}" for descriptor in os.listdir("/proc/self/fd")}
