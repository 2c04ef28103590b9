"""Pauses process trees for whoever holds its standard input, and lets them go on when that closes.

A program of its own (`python -m rowspan.bench.run.stopper`, started by `pause.py`): what is paused hears neither of
SIGTERM nor of its owner's end, so whoever pauses it must outlive an owner that is killed.

Every line it reads is a JSON list of process ids. These and all that descends from them are paused, whatever else was
paused before goes on, and the answer is a line: an object of those ids of which not all could be paused, and why.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Sequence

import psutil


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they reach the owner, too, whose end is the sign
    stopper = Stopper()
    try:
        for line in sys.stdin:
            print(json.dumps(stopper.hold(json.loads(line))), flush=True)
    finally:
        stopper.hold([])


class Stopper:
    """Knows what it has paused."""

    def __init__(self) -> None:
        self._paused: set[psutil.Process] = set()

    def hold(self, roots: Sequence[int]) -> dict[int, str]:
        """Pause these and all that descends from them, and nothing else any more. Returns those that could not be, and
        why; one that has ended is none of them."""
        before, self._paused = self._paused, set()
        refused: dict[int, str] = {}
        for root in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                if why := self._pause(psutil.Process(root)):
                    refused[root] = why
        for process in before - self._paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        return refused

    def _pause(self, root: psutil.Process) -> str:
        """Why not all of its tree could be; empty: all is paused. Whoever is paused starts no more processes, so that
        looking again finds none in the end."""
        seen: set[psutil.Process] = set()
        why = ""
        while new := {root, *root.children(recursive=True)} - seen:
            seen |= new
            for process in new:
                try:
                    process.suspend()
                    self._paused.add(process)
                except psutil.AccessDenied:
                    why = f"process {process.pid} is not ours to stop"
                except psutil.NoSuchProcess:
                    pass
        return why


if __name__ == "__main__":
    main()
