"""The worker processes of one host: spawned, talked to, and always taken down together."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rowspan.comm.environment import rank_environment
from rowspan.comm.meeting import Meeting
from rowspan.comm.mesh import socket_mesh
from rowspan.comm.shared import SharedLayout, SharedMemory, spins_before_sleep
from rowspan.engine.ranks import EXIT_SECONDS, PeersLostError
from rowspan.errors import EngineError
from rowspan.kernels.isa import is_native, native_module
from rowspan.plan.routes import Transport
from rowspan.rig.root import Root
from rowspan.worker.messages import PEER_LOST, WorkerFailure, WorkerSetup

log = logging.getLogger(__name__)

DEFAULTS = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # torch warns of every host whose address has no name
    # numpy asks for large pages for arrays of 4 MiB and more: a cache's would be resident long before they are used, at
    # no gain (depth 4096: 1.00). Weights have their own memory.
    "NUMPY_MADVISE_HUGEPAGE": "0",
}


class LocalRanks:
    """See `Ranks`: those of this host, as its processes."""

    def __init__(self, setups: Sequence[WorkerSetup]) -> None:
        """Spawn them. Args: setups: one per rank."""
        # Only where it is needed: an engine that is killed leaves it behind.
        self._folder = tempfile.mkdtemp(prefix="rowspan-") if setups[0].routes.uses(Transport.NCCL) else ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self.links: list[Connection] = []
        self._ranks = [setup.rank for setup in setups]
        self._counts: SharedMemory | None = None
        self._n_ranks = len(setups[0].plan.shards)
        try:
            with ExitStack() as spawning:
                layout, memory = self._share(setups, spawning)
                threads = sum(setup.threads for setup in setups)
                spins = spins_before_sleep(threads)
                peers = socket_mesh(self._ranks, self._n_ranks, spawning)
                for setup in setups:
                    meeting = Meeting(layout, spins, peers[setup.rank], Path(self._folder, "store"), setup.between)
                    self._spawn(replace(setup, meeting=meeting, memory=memory))
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        return not any(link.poll() for link in self.links)

    def send(self, order: object) -> None:
        message = pickle.dumps(order)  # once for all; a connection's own way to do it takes half as long again
        try:
            for link in self.links:
                link.send_bytes(message)
        except OSError:
            raise self._diagnose() from None

    def take(self, link: Connection) -> tuple[int, Any]:
        try:
            message = link.recv()
        except (EOFError, OSError):
            raise self._diagnose() from None
        if isinstance(message, WorkerFailure):
            raise _failed(message)
        return self._ranks[self.links.index(link)], message

    def progress(self) -> dict[int, int]:
        if self._counts is None:
            return {}
        counts = self._counts.progress(self._n_ranks)
        return {rank: counts[rank] for rank in self._ranks}

    def kill(self) -> None:
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        self._counts = None  # it holds a file descriptor
        for link in self.links:
            link.close()
        deadline = time.monotonic() + EXIT_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _share(self, setups: Sequence[WorkerSetup], spawning: ExitStack) -> tuple[SharedLayout | None, int]:
        """Memory for all ranks: its layout and descriptor. None and -1 where there is no native module to use it."""
        native = native_module()
        if native is None:
            return None, -1
        layout = SharedLayout.of(native, setups[0].plan, setups[0].max_tokens)
        memory = SharedMemory.create(layout.nbytes)
        spawning.callback(os.close, memory)
        if all(is_native(setup.cpu_isa) for setup in setups):
            self._counts = SharedMemory(memory, layout.nbytes)
        return layout, memory

    def _spawn(self, setup: WorkerSetup) -> None:
        assert setup.meeting is not None, "filled in above"
        ours, theirs = socket.socketpair()
        listener = setup.between.listener if setup.between is not None else -1
        on_card = setup.plan.shards[setup.rank].device.kind != "cpu"
        environment = rank_environment(os.environ, Root()) if on_card else dict(os.environ)
        inherited = [theirs.fileno(), setup.memory, listener, *setup.meeting.peers]
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    # -P: a file in the current folder must not take the place of a library.
                    [sys.executable, "-P", "-m", "rowspan.worker.main", str(theirs.fileno())],
                    pass_fds=[fd for fd in inherited if fd >= 0],
                    stdin=subprocess.DEVNULL,
                    env=DEFAULTS | environment | {"OMP_NUM_THREADS": str(setup.threads)},
                )
            )
        link = Connection(ours.detach())
        self.links.append(link)
        link.send(setup)

    def _diagnose(self) -> EngineError:
        """A rank has left: find out which one, and why. Through sockets the others have noticed and follow."""
        codes: dict[int, int] = {}
        failures: list[WorkerFailure] = []
        for rank, link, process in zip(self._ranks, self.links, self._processes, strict=True):
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
        if not by_itself and len(self._ranks) < self._n_ranks:
            return PeersLostError("A rank of another host hung up.", fix="Send the request again in a moment.")
        rank = min(by_itself or codes, default=self._ranks[0])
        return _death(rank, codes.get(rank))


def _death(rank: int, code: int | None) -> EngineError:
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


def _failed(failure: WorkerFailure) -> EngineError:
    if failure.detail:
        log.error("rank %d failed:\n%s", failure.rank, failure.detail)
    return EngineError(failure.what, why=failure.why, fix=failure.fix)
