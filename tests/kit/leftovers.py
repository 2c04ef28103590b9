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
    """Call what it gives, after the block, for what is there now and was not before it. Meanwhile temporary folders are
    made in a folder of its own: other programs' come and go in the system's."""
    before, usual = _present(), tempfile.tempdir
    with tempfile.TemporaryDirectory() as own:
        tempfile.tempdir = own
        try:
            yield lambda: _present() - before
        finally:
            tempfile.tempdir = usual


def _present() -> set[str]:
    children = {f"process {child.pid}" for child in psutil.Process().children(recursive=True)}
    files = {f"open file {descriptor}" for descriptor in os.listdir("/proc/self/fd")}
    folders = {str(path) for path in Path(tempfile.gettempdir()).glob("rowspan-*")}
    return children | files | folders
