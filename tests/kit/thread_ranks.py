"""Ranks as threads of this process, so that tests can give them kernels of their own. The engine and the workers'
loop are the real ones."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from rowspan.comm.meeting import Meeting
from rowspan.errors import EngineError
from rowspan.worker.main import _failure, serve
from rowspan.worker.messages import WorkerFailure, WorkerSetup


class ThreadRanks:
    """See `rowspan.engine.ranks.Ranks`; of a plan of one rank."""

    def __init__(self, setups: Sequence[WorkerSetup]) -> None:
        (setup,) = setups
        ours, theirs = socket.socketpair()
        self._link, self._theirs = Connection(ours.detach()), Connection(theirs.detach())
        self.links = [self._link]
        meeting = Meeting(None, 0, (), Path())
        self._thread = Thread(target=self._run, args=(replace(setup, meeting=meeting),), daemon=True)
        self._thread.start()

    @property
    def is_whole(self) -> bool:
        return not self._link.poll()

    def send(self, order: object) -> None:
        self._link.send(order)

    def take(self, link: Connection) -> tuple[int, Any]:
        try:
            message = link.recv()
        except EOFError:
            raise EngineError("The worker ended.") from None
        if isinstance(message, WorkerFailure):
            raise EngineError(message.what, why=message.why, fix=message.fix)
        return 0, message

    def progress(self) -> Mapping[int, int]:
        return {}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self._link.close()
        self._thread.join()

    def _run(self, setup: WorkerSetup) -> None:
        with self._theirs:
            try:
                serve(self._theirs, setup)
            except (EOFError, OSError):
                pass
            except Exception as error:
                self._theirs.send(_failure(setup.rank, error))


def start(setups: Sequence[WorkerSetup]) -> list[ThreadRanks]:
    """See `rowspan.engine.ranks.StartRanks`."""
    return [ThreadRanks(setups)]
