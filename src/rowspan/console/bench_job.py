"""A benchmark that the console has started: `rowspan bench` as a program of its own, one at a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

from rowspan.backends.process import guardian
from rowspan.bench.results.repetitions import workload_of
from rowspan.errors import UsageError

Json = dict[str, Any]
END_SECONDS = "5"  # how long it may take to end by itself once it is told to
COMMAND = (sys.executable, "-c", "from rowspan.cli.main import main; main()", "bench", "--output=jsonl")
PROGRESS = re.compile(r"(\d+)/(\d+) (.*)")
SHOWN_LINES = 12  # of what it printed last, where it failed


class BenchJob:
    """The benchmark that runs, or the last one. It ends with this process, whatever ends that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._told: deque[str] = deque(maxlen=SHOWN_LINES)
        self._rows: list[Json] = []
        self._step: Json | None = None

    def check_idle(self) -> None:
        """Raise UsageError if a benchmark runs."""
        if self._process is not None and self._process.poll() is None:
            raise UsageError("A benchmark runs already.", fix="Wait for its end, or stop it.")

    def start(self, options: Sequence[str]) -> None:
        """Run `rowspan bench` with these options. Raises UsageError if one runs already."""
        with self._lock:
            self.check_idle()
            self._told.clear()
            self._rows, self._step, self._stopped = [], None, False
            command = (sys.executable, "-I", "-S", guardian.__file__, END_SECONDS, *COMMAND, *options)
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
            readers = ((self._process.stdout, self._read_rows), (self._process.stderr, self._read_progress))
            for stream, read in readers:
                threading.Thread(target=read, args=(stream,), name="console-bench", daemon=True).start()

    def stop(self) -> None:
        """End the benchmark; the results so far are kept in the store."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                assert self._process.stdin is not None
                self._stopped = True
                self._process.stdin.close()

    def state(self) -> Json | None:
        """How it goes, or went; None if none was started."""
        if self._process is None:
            return None
        code = self._process.poll()
        failed = code not in (None, 0) and not self._stopped
        return {
            "running": code is None,
            "stopped": self._stopped,
            "step": self._step,
            "rows": list(self._rows),
            "error": "\n".join(self._told) if failed else None,
        }

    def _read_rows(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                row = json.loads(line)
                told = {name: row[name] for name in ("engine", "split_mode", "devices", "avg_ts", "stddev_ts")}
                self._rows.append({**told, "test": workload_of(row).name})
            except (ValueError, KeyError, TypeError):
                self._told.append(line.rstrip())

    def _read_progress(self, stream: IO[str]) -> None:
        for line in stream:
            if match := PROGRESS.fullmatch(line.strip()):
                self._step = {"done": int(match[1]) - 1, "total": int(match[2]), "text": match[3]}
            elif line.strip():
                self._told.append(line.rstrip())
