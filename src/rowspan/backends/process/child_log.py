"""Keeps a child process's output: its last lines in memory, and all of it in a file of bounded size."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Lock
from typing import IO

KEPT_LINES = 1000
LINE_BYTES = 2000  # longer ones are cut: a child may print binary rubbish without a line's end
FILE_BYTES = 4 << 20  # and one older file of the same size
# Skip errors that a warning merely mentions: vLLM warns of few file descriptors with the error they might cause.
_CAUSE = re.compile(r"^(?:(?!\b(?:DEBUG|INFO|WARNING)\b).)*?(\b(?:\w*(?:Error|Exception)|error): .*)")

log = logging.getLogger(__name__)


class ChildLog:
    """Reads a child's output on the thread that calls `follow`; all other methods may be called from any thread."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lock = Lock()
        self._said: Callable[[str], None] = lambda line: None

    def follow(self, output: IO[bytes]) -> None:
        """Read until the output ends; lines of an earlier run are forgotten. If the file cannot be written, this is
        reported once and the log goes on without it.
        """
        writer = self._writer()
        with self._lock:
            self._lines.clear()
        try:
            while data := output.readline(LINE_BYTES):
                line = data.decode(errors="replace").rstrip("\r\n")
                with self._lock:
                    self._lines.append(line)
                    said = self._said
                if writer is not None:
                    writer.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
                said(line)
        finally:
            if writer is not None:
                writer.close()

    def tell(self, said: Callable[[str], None]) -> None:
        """Set the function that is called with every line from now on, on the reading thread."""
        with self._lock:
            self._said = said

    def last(self, count: int) -> list[str]:
        """The last lines that are not empty, in order."""
        with self._lock:
            lines = [line for line in self._lines if line.strip()]
        return lines[-count:]

    def cause(self) -> str | None:
        """The first line that names an error: later ones are mostly about its consequences."""
        with self._lock:
            return next((found[1] for line in self._lines if (found := _CAUSE.search(line))), None)

    def note(self, line: str) -> None:
        """Add a line of Rowspan's own."""
        with self._lock:
            self._lines.append(line)

    def _writer(self) -> RotatingFileHandler | None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            writer = RotatingFileHandler(self.file, maxBytes=FILE_BYTES, backupCount=1, errors="replace")
        except OSError as error:
            log.warning("The log file %s cannot be written: %s.", self.file, error.strerror)
            return None
        writer.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        return writer
