"""The interface by which an engine controls ranks, on whichever host they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rowspan.errors import EngineError
from rowspan.worker.messages import WorkerSetup

EXIT_SECONDS = 5.0  # what a worker gets to end by itself after the engine has hung up


class PeersLostError(EngineError):
    """A rank lost one that is not among these ranks. Whoever controls that one knows why."""


class Ranks(Protocol):
    """The ranks of a plan that are on one host. If any rank fails, all have failed."""

    @property
    def links(self) -> Sequence[Connection]:
        """Connections that become readable when a rank has sent a message."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether all ranks are alive. Call it between steps only: then no rank has other messages to send."""
        ...

    def send(self, order: object) -> None:
        """Send all ranks an order, such as a step plan; they carry orders out one after the other. Raises EngineError
        if a rank died or failed.
        """
        ...

    def take(self, link: Connection) -> tuple[int, Any]:
        """Read the next message from a readable link; returns the number of the rank that sent it, and the message.

        Raises:
            PeersLostError: a rank of another host died or failed.
            EngineError: a rank died or failed.
        """
        ...

    def progress(self) -> Mapping[int, int]:
        """The progress counters of those ranks that have one."""
        ...

    def kill(self) -> None:
        """Kill ranks that hang, since they would not read an order."""
        ...

    def close(self) -> None:
        """Hang up on every rank, which ends it, and kill those that do not end."""
        ...


StartRanks = Callable[[Sequence[WorkerSetup]], Sequence[Ranks]]
"""Starts all ranks of a plan, on one or several hosts. Raises EngineError."""
