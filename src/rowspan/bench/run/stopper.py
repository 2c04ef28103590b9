"""Pauses process trees for the owner of its standard input, and resumes them when that input closes.

This is a program of its own (`python -m rowspan.bench.run.stopper`, started by `pause.py`): a paused process notices
neither SIGTERM nor its owner's end, so whoever pauses it must outlive an owner that is killed.

Every line that it reads is a JSON list of process ids. It pauses these with all their descendants, resumes whatever
else was paused before, and answers with a line: an object of those ids of which not all could be paused, and why.
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
        signal.signal(number, signal.SIG_IGN)  # the owner gets these signals, too, and its end is what counts
    stopper = Stopper()
    try:
        for line in sys.stdin:
            print(json.dumps(stopper.hold(json.loads(line))), flush=True)
    finally:
        stopper.hold([])


class Stopper:
    """Keeps track of the processes that it has paused."""

    def __init__(self) -> None:
        self._paused: set[psutil.Process] = set()

    def hold(self, roots: Sequence[int]) -> dict[int, str]:
        """Pause these processes and all their descendants, and resume all others. Returns those that could not be
        paused, and why; one that has ended does not count.
        """
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
        """Pause a whole process tree, and return why not all of it could be paused; empty if all is. Paused processes
        start no more children, so that looking again finds none in the end.
        """
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
