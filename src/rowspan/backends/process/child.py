"""Runs another server program as a supervised child: starts, watches, restarts and ends it.

Nothing of it outlives this process, whatever ends this process: see `guardian`.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import psutil

from rowspan.backends.process import guardian
from rowspan.backends.process.child_log import ChildLog
from rowspan.errors import EngineError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
HEALTH_SECONDS = 2.0  # time allowed for an answer to GET /health
SHOWN_LINES, SHOWN_LENGTH = 8, 300  # of a child's log that an error shows


class ChildError(EngineError):
    """Another program that Rowspan runs has failed."""

    code = "backend_failed"


@dataclass(frozen=True)
class Launch:
    """How to start the program. environment: variables added to this process's environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Program(Protocol):
    """A program that a `Child` can run."""

    @property
    def title(self) -> str:
        """The name shown to people: "llama-server"."""
        ...

    def launch(self, port: int, key: str) -> Launch:
        """The command that makes it serve on a port of 127.0.0.1, for those who know the key."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    start: for the program to answer; None: as long as it lives (a large model takes its time to load).
    end: between SIGTERM and SIGKILL.
    back_off: before each restart after crashes in a row; after the last one the program is given up.
    steady: after running so long, a crash counts as the first one again.
    """

    start: float | None = None
    end: float = 10.0
    back_off: tuple[float, ...] = (1.0, 2.0, 5.0, 15.0, 60.0)
    steady: float = 60.0


class ChildState(StrEnum):
    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    CRASHED = "crashed"  # and about to be restarted
    FAILED = "failed"  # and given up


@dataclass(frozen=True)
class Address:
    """The address of a running child on 127.0.0.1."""

    port: int
    key: str


class Child:
    """One supervised program. `start` and `stop` may be called repeatedly, from any thread, but not concurrently."""

    def __init__(
        self, program: Program, child_log: ChildLog, patience: Patience | None = None, *, port: int | None = None
    ) -> None:
        """Prepare to run a program.

        Args:
            port: None: any free one.
        """
        self.log = child_log
        self._port = port
        self._program = program
        self._patience = patience or Patience()
        self._state = ChildState.STOPPED
        self._address: Address | None = None
        self._reason: ChildError | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.pid: int | None = None  # process id of the guardian, while it runs

    @property
    def state(self) -> ChildState:
        return self._state

    @property
    def reason(self) -> ChildError | None:
        """The error that ended the program the last time, unless it has answered since."""
        return self._reason

    def address(self) -> Address:
        """The address at which the program answers now.

        Raises:
            ChildError: it does not answer.
        """
        with self._changed:
            if self._address is not None:
                return self._address
            raise ChildError(f"{self._program.title} is not ready: {self._state}.", fix="Try again in a moment.")

    def processes(self) -> list[int]:
        """Ids of the processes whose parent is the guardian: the program, and its orphans."""
        try:
            return [] if self.pid is None else [one.pid for one in psutil.Process(self.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def start(self, said: Callable[[str], None] = lambda line: None) -> None:
        """Start the program, and return when it answers.

        Args:
            said: called with every line that it prints meanwhile, on another thread.

        Raises:
            ChildError: it ended before it answered; the error shows its last lines.
        """
        self._stopping.clear()
        self.log.tell(said)
        self._become(ChildState.LOADING)
        self._thread = threading.Thread(target=self._run, name=f"rowspan-{self._program.title}", daemon=True)
        self._thread.start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._state != ChildState.LOADING)
                if self._state != ChildState.READY:
                    raise self._reason or ChildError(f"{self._program.title} was stopped while loading.")
        except BaseException:
            self.stop()
            raise
        finally:
            self.log.tell(lambda line: None)

    def stop(self) -> None:
        """End the program, and return when nothing of it is left."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _run(self) -> None:
        """Start the program, wait for its end and start it again, until told to stop or the program is given up."""
        crashes = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            address = Address(self._port or free_port(), secrets.token_urlsafe(24))
            was_ready, code = self._run_once(address)
            if self._stopping.is_set():
                break
            if not was_ready and self._port is None and is_taken(address.port):
                continue  # another program was faster to listen there
            self._reason = self._died(code, was_ready)
            crashes = 1 if was_ready and time.monotonic() - began > self._patience.steady else crashes + 1
            if (crashes == 1 and not was_ready) or crashes > len(self._patience.back_off):
                self._become(ChildState.FAILED, self._reason)
                return
            delay = self._patience.back_off[crashes - 1]
            log.error("%s It is restarted in %g s.", self._reason, delay)
            self._become(ChildState.CRASHED, self._reason)
            self._stopping.wait(delay)
        self._become(ChildState.STOPPED)

    def _run_once(self, address: Address) -> tuple[bool, int]:
        """Run the program from start to end. Returns whether it ever answered, and its exit code."""
        launch = self._program.launch(address.port, address.key)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(self._patience.end), *launch.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **launch.environment},
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        reader = threading.Thread(target=self.log.follow, args=(process.stdout,), daemon=True)
        reader.start()
        ready = False
        began = time.monotonic()
        try:
            while process.poll() is None and not self._stopping.is_set():
                if not ready and answers(address.port):
                    ready = True
                    self._become(ChildState.READY, address=address)
                elif not ready and self._patience.start and time.monotonic() - began > self._patience.start:
                    self.log.note(f"It did not answer within {self._patience.start:g} s.")
                    break
                self._stopping.wait(POLL_SECONDS if not ready else 10 * POLL_SECONDS)
        finally:
            with self._changed:
                self._address = None
            with contextlib.suppress(OSError):
                process.stdin.close()  # tells the guardian to end the program
            code = self._await_end(process)
            reader.join(1.0)
            process.stdout.close()
            self.pid = None
        return ready, code

    def _await_end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(self._patience.end + 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _become(self, state: ChildState, reason: ChildError | None = None, *, address: Address | None = None) -> None:
        with self._changed:
            self._state, self._reason, self._address = state, reason, address
            self._changed.notify_all()

    def _died(self, code: int, was_ready: bool) -> ChildError:
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        cause = self.log.cause() if not was_ready else None
        lines = "\n".join(f"    {line[:SHOWN_LENGTH]}" for line in self.log.last(SHOWN_LINES))
        said = f"Its last lines:\n{lines}" if lines else "It said nothing."
        return ChildError(
            f"{self._program.title} ended {'while it served' if was_ready else 'while loading'} ({how}); "
            f"its log is {self.log.file}.",
            why=f"{cause[: 2 * SHOWN_LENGTH]}\n  {said}" if cause else said,
        )


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(HEALTH_SECONDS)
        return probe.connect_ex((HOST, port)) == 0


def answers(port: int) -> bool:
    """Whether GET /health is answered with status 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
