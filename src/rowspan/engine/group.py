"""The worker processes of one engine: spawned, talked to, and always taken down together."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rowspan.errors import EngineError, RowspanError
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.messages import PEER_LOST, LoadProgress, WorkerFailure, WorkerReady, WorkerSetup

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
            with ExitStack() as spawning:
                peers = _socket_mesh(len(setups), spawning)
                for setup, links in zip(setups, peers, strict=True):
                    self._spawn(replace(setup, peers=links, meeting_file=self._folder / "meeting"))
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
            raise self._diagnose() from None
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
                    pass_fds=[theirs.fileno(), *(fd for fd in setup.peers if fd >= 0)],
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
            raise self._diagnose() from None
        if isinstance(message, WorkerFailure):
            raise _failed(message)
        return rank, message

    def _diagnose(self) -> RowspanError:
        """A rank is gone, and the others have followed or will: find the one that was first, and why."""
        codes: dict[int, int | None] = {}
        for rank, (link, process) in enumerate(zip(self._links, self._processes, strict=True)):
            try:
                codes[rank] = process.wait(EXIT_SECONDS)
                while link.poll():
                    if isinstance(message := link.recv(), WorkerFailure):
                        return _failed(message)
            except subprocess.TimeoutExpired:
                codes[rank] = None
            except (EOFError, OSError):
                pass  # it left no word
        by_itself = [rank for rank, code in codes.items() if code not in (None, 0, PEER_LOST)]
        rank = by_itself[0] if by_itself else 0
        return _death(rank, codes[rank])


def _socket_mesh(n_ranks: int, owner: ExitStack) -> list[tuple[int, ...]]:
    """A socket between every two ranks: for each rank the descriptors to all (-1 to itself). The owner closes them,
    once the ranks have inherited theirs, so that a rank's end closes when the rank ends."""
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(range(n_ranks), 2):
        ends = socket.socketpair()
        for end in ends:
            owner.enter_context(end)
        peers[a][b], peers[b][a] = (end.fileno() for end in ends)
    return [tuple(row) for row in peers]


def _death(rank: int, code: int | None) -> RowspanError:
    how = f"ended with code {code}"
    if code is None:
        how = "hung up"
    elif code < 0:
        how = f"was killed by signal {-code}" + (
            " (often the system, out of memory)" if code == -signal.SIGKILL else ""
        )
    return EngineError(
        f"The worker of rank {rank} {how}.",
        fix="If it happens again: use a smaller --ctx-size or model, and look at the log above.",
    )


def _failed(failure: WorkerFailure) -> RowspanError:
    if failure.detail:
        log.error("rank %d failed:\n%s", failure.rank, failure.detail)
    return EngineError(failure.what, why=failure.why, fix=failure.fix)
