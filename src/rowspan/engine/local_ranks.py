"""The worker processes of one host: starts them, exchanges messages with them, and always ends them together."""

from __future__ import annotations

import logging
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rowspan.comm.meeting import Meeting
from rowspan.comm.mesh import socket_mesh
from rowspan.comm.shared import SharedLayout, SharedMemory, spins_before_sleep
from rowspan.comm.spawn import share_memory, spawn_rank
from rowspan.engine.ranks import EXIT_SECONDS, PeersLostError
from rowspan.errors import EngineError
from rowspan.kernels.isa import is_native, native_module
from rowspan.plan.routes import Transport
from rowspan.worker.messages import PEER_LOST, WorkerFailure, WorkerSetup

log = logging.getLogger(__name__)

# -P: a file in the current folder must not take the place of a library.
COMMAND = (sys.executable, "-P", "-m", "rowspan.worker.main")
ALWAYS_FITS = 16 << 10  # bytes of one order that a socket takes at once, even behind the orders of all steps under way
DEFAULTS = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # torch warns of every host whose address has no name
    # numpy requests large pages for arrays of 4 MiB and more: a KV cache's would be resident long before they are used,
    # at no gain (depth 4096: 1.00). Weights have their own memory.
    "NUMPY_MADVISE_HUGEPAGE": "0",
}


class LocalRanks:
    """The `Ranks` of this host, as processes."""

    def __init__(self, setups: Sequence[WorkerSetup]) -> None:
        """Spawn the ranks. Args: setups: one per rank."""
        # The folder is only made if it is needed, since an engine that is killed leaves it behind.
        self._folder = tempfile.mkdtemp(prefix="rowspan-") if setups[0].routes.uses(Transport.NCCL) else ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self.links: list[Connection] = []
        self._ranks = [setup.rank for setup in setups]
        self._counts: SharedMemory | None = None
        self._writer = ThreadPoolExecutor(1, "rowspan-orders")  # its thread starts with the first large order
        self._written: Future[None] | None = None  # of the last order given to it
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
        except OSError as error:  # no process, no memory or no descriptor is to be had
            self.close()
            raise EngineError(
                "The workers could not be started.", why=f"{error}.", fix="End other programs, or raise their limits."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        return not any(link.poll() for link in self.links)

    def send(self, order: object) -> None:
        """Send an order, without waiting for ranks that read nothing: the caller finds out meanwhile if one hangs."""
        message = pickle.dumps(order)  # once for all; a connection's own way to do it takes half as long again
        if len(message) > ALWAYS_FITS or (self._written is not None and not self._written.done()):
            self._written = self._writer.submit(self._write_later, message)
            return
        try:
            self._write(message)
        except OSError:
            raise self._diagnose() from None

    def _write(self, message: bytes) -> None:
        for link in self.links:
            link.send_bytes(message)

    def _write_later(self, message: bytes) -> None:
        with suppress(OSError, TypeError):  # a rank has ended, as its link says, too; or `close` has closed the link
            self._write(message)

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
        self._writer.shutdown()  # no rank is left that it could wait for
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _share(self, setups: Sequence[WorkerSetup], spawning: ExitStack) -> tuple[SharedLayout | None, int]:
        """Allocate the ranks' shared memory, as `share_memory` does, and map it, since ranks count their progress in
        it.
        """
        layout, memory = share_memory(native_module(), setups[0].plan, setups[0].max_tokens, spawning)
        if layout is not None and all(is_native(setup.cpu_isa) for setup in setups):
            self._counts = SharedMemory(memory, layout.nbytes)
        return layout, memory

    def _spawn(self, setup: WorkerSetup) -> None:
        assert setup.meeting is not None, "filled in above"
        listener = setup.between.listener if setup.between is not None else -1
        device = setup.plan.shards[setup.rank].device
        inherited = (setup.memory, listener, *setup.meeting.peers)
        rank = spawn_rank(COMMAND, setup, device, inherited, threads=setup.threads, defaults=DEFAULTS)
        self._processes.append(rank.process)
        self.links.append(rank.link)

    def _diagnose(self) -> EngineError:
        """Find out which rank has ended, and why. Ranks joined by sockets notice when one ends, and end too."""
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
