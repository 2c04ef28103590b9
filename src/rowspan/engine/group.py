"""The worker processes of one engine: spawned, talked to, and always taken down together."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rowspan.errors import EngineError, RowspanError
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.messages import LoadProgress, WorkerFailure, WorkerReady, WorkerSetup

log = logging.getLogger(__name__)

EXIT_SECONDS = 5.0  # what a worker gets to end by itself after the engine has hung up


class WorkerGroup:
    """All ranks of a plan. Any rank's failure is the group's: the caller closes it and may start another."""

    def __init__(self, setups: Sequence[WorkerSetup], on_progress: Callable[[int], None] = lambda nbytes: None) -> None:
        """Spawn the ranks and wait until all have loaded.

        Args:
            setups: one per rank; the group fills in their meeting file.
            on_progress: told the file bytes read since the last call, over all ranks.

        Raises:
            EngineError: a rank could not load, with the rank's own reason.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="rowspan-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Connection] = []
        self._output_rank = setups[0].plan.output_rank
        try:
            for setup in setups:
                self._spawn(replace(setup, meeting_file=self._folder / "meeting"))
            self.ready = self._await_ready(on_progress)
        except BaseException:
            self.close()
            raise

    def run(self, plan: StepPlan) -> StepResult:
        """Run one step on all ranks.

        Raises:
            EngineError: a rank died or failed; the group is of no more use.
        """
        try:
            for link in self._links:
                link.send(plan)
        except OSError:
            self._raise_failure()
        while True:
            rank, message = self._receive()
            if rank == self._output_rank and isinstance(message, StepResult):
                return message

    def close(self) -> None:
        """Hang up on every rank, and end those that do not leave by themselves."""
        for link in self._links:
            link.close()
        deadline = time.monotonic() + EXIT_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, setup: WorkerSetup) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    # -P: a file in the current folder must not take the place of a library.
                    [sys.executable, "-P", "-m", "rowspan.worker.main", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"OMP_NUM_THREADS": str(setup.threads)},
                )
            )
        link = Connection(ours.detach())
        self._links.append(link)
        link.send(setup)

    def _await_ready(self, on_progress: Callable[[int], None]) -> tuple[WorkerReady, ...]:
        ready: dict[int, WorkerReady] = {}
        while len(ready) < len(self._links):
            rank, message = self._receive()
            if isinstance(message, LoadProgress):
                on_progress(message.nbytes)
            elif isinstance(message, WorkerReady):
                ready[rank] = message
        return tuple(ready[rank] for rank in sorted(ready))

    def _receive(self) -> tuple[int, Any]:
        """The next message of any rank."""
        readable = wait(self._links)
        link = readable[0]
        assert isinstance(link, Connection)
        rank = self._links.index(link)
        try:
            message = link.recv()
        except (EOFError, OSError):
            raise self._death(rank) from None
        if isinstance(message, WorkerFailure):
            raise _failed(message)
        return rank, message

    def _raise_failure(self) -> None:
        """A rank does not take messages any more: find out which and why."""
        while True:
            self._receive()

    def _death(self, rank: int) -> RowspanError:
        try:
            code = self._processes[rank].wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        how = {None: "hung up", -9: "was killed (signal 9; often the system, out of memory)"}.get(
            code, f"ended with signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        )
        return EngineError(
            f"The worker of rank {rank} {how}.",
            fix="If it happens again: use a smaller --ctx-size or model, and look at the log above.",
        )


def _failed(failure: WorkerFailure) -> RowspanError:
    if failure.detail:
        log.error("rank %d failed:\n%s", failure.rank, failure.detail)
    return EngineError(failure.what, why=failure.why, fix=failure.fix)
