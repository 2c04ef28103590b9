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
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rowspan.comm.meeting import Meeting
from rowspan.comm.mesh import socket_mesh
from rowspan.comm.shared import LOOKS, SharedLayout, SharedMemory
from rowspan.engine.watch import LOOK_SECONDS, Watch
from rowspan.errors import EngineError, RowspanError
from rowspan.kernels.isa import TORCH, native_module
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.messages import PEER_LOST, LoadProgress, WorkerFailure, WorkerReady, WorkerSetup

log = logging.getLogger(__name__)

EXIT_SECONDS = 5.0  # what a worker gets to end by itself after the engine has hung up


class WorkerGroup:
    """All ranks of a plan. Any rank's failure is the group's: the caller closes it and may start another."""

    def __init__(
        self,
        setups: Sequence[WorkerSetup],
        hang_seconds: float,
        on_progress: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Spawn the ranks and wait until all have loaded.

        Args:
            setups: one per rank; the group fills in where they meet.
            hang_seconds: how long natively computing ranks may do nothing within a step.
            on_progress: told the file bytes read since the last call, over all ranks.

        Raises:
            EngineError: a rank could not load, with the rank's own reason.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="rowspan-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Connection] = []
        self._output_rank = setups[0].plan.output_rank
        self._hang_seconds = hang_seconds
        self._watch: Watch | None = None
        try:
            with ExitStack() as spawning:
                layout, memory = self._share(setups[0], spawning)
                threads = sum(setup.threads for setup in setups)
                looks = LOOKS if threads <= len(os.sched_getaffinity(0)) else 0
                for setup, peers in zip(setups, socket_mesh(len(setups), spawning), strict=True):
                    meeting = Meeting(layout, looks, peers, self._folder / "store")
                    self._spawn(replace(setup, meeting=meeting, memory=memory))
            self.ready = self._await_ready(on_progress)
        except BaseException:
            self.close()
            raise

    def send(self, plan: StepPlan) -> None:
        """Have all ranks run a step after those sent before.

        Raises:
            EngineError: a rank died or failed; the group is of no more use.
        """
        if self._watch is not None:
            self._watch.begin()
        try:
            for link in self._links:
                link.send(plan)
        except OSError:
            raise self._diagnose() from None

    def receive(self) -> StepResult:
        """The result of the oldest step that is under way.

        Raises:
            EngineError: a rank died, failed, or hangs; the group is of no more use.
        """
        while True:
            rank, message = self._receive()
            if rank == self._output_rank and isinstance(message, StepResult):
                return message

    def run(self, plan: StepPlan) -> StepResult:
        """Run one step on all ranks. Raises as `send` and `receive` do."""
        self.send(plan)
        return self.receive()

    @property
    def is_whole(self) -> bool:
        """No rank has ended. To be asked between steps: no rank has anything else to say then."""
        return not any(link.poll() for link in self._links)

    def close(self) -> None:
        """Hang up on every rank, which ends it, and kill those that do not leave."""
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

    def _share(self, setup: WorkerSetup, spawning: ExitStack) -> tuple[SharedLayout | None, int]:
        """Memory for all ranks: its layout and descriptor. None and -1 where there is no native module to use it."""
        native = native_module()
        if native is None:
            return None, -1
        layout = SharedLayout.of(native, setup.plan, setup.max_tokens)
        memory = SharedMemory.create(layout.nbytes)
        spawning.callback(os.close, memory)
        if setup.cpu_isa != TORCH:
            shared = SharedMemory(memory, layout.nbytes)
            self._watch = Watch(shared, len(setup.plan.shards), self._hang_seconds)
        return layout, memory

    def _spawn(self, setup: WorkerSetup) -> None:
        assert setup.meeting is not None, "filled in above"
        ours, theirs = socket.socketpair()
        inherited = [theirs.fileno(), setup.memory, *setup.meeting.peers]
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    # -P: a file in the current folder must not take the place of a library.
                    [sys.executable, "-P", "-m", "rowspan.worker.main", str(theirs.fileno())],
                    pass_fds=[fd for fd in inherited if fd >= 0],
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
        while not (readable := wait(self._links, LOOK_SECONDS if self._watch else None)):
            assert self._watch is not None, "else there is no time-out"
            if (rank := self._watch.hangs()) is not None:
                raise self._hung(rank)
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
        """A rank has left: find out which one, and why. Through sockets the others have noticed and follow."""
        codes: dict[int, int] = {}
        failures: list[WorkerFailure] = []
        for rank, (link, process) in enumerate(zip(self._links, self._processes, strict=True)):
            try:
                while link.poll():
                    if isinstance(message := link.recv(), WorkerFailure):
                        failures.append(message)
            except (EOFError, OSError):
                with suppress(subprocess.TimeoutExpired):
                    codes[rank] = process.wait(EXIT_SECONDS)
        if failures:
            return _failed(failures[0])
        by_itself = [rank for rank, code in codes.items() if code != PEER_LOST]
        rank = min(by_itself or codes, default=0)
        return _death(rank, codes.get(rank))

    def _hung(self, rank: int) -> RowspanError:
        for process in self._processes:
            process.kill()  # it would not listen
        return EngineError(
            f"The worker of rank {rank} has done nothing for {self._hang_seconds:g} s.",
            why="It was stopped, or its machine is out of memory or of processor time.",
            fix="Send the request again: the workers are started anew.",
        )


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
