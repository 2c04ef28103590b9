"""The ranks of a plan as an engine sees them, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rowspan.errors import EngineError
from rowspan.worker.messages import WorkerSetup

EXIT_SECONDS = 5.0  # what a worker gets to end by itself after the engine has hung up


class PeersLostError(EngineError):
    """A rank lost one that is not among these ranks. Those who have that one know why."""


class Ranks(Protocol):
    """Some ranks of a plan: those of one host. Any rank's failure is that of all."""

    @property
    def links(self) -> Sequence[Connection]:
        """Readable when a rank has something to say."""
        ...

    @property
    def is_whole(self) -> bool:
        """No rank has ended. To be asked between steps: no rank has anything else to say then."""
        ...

    def send(self, order: object) -> None:
        """Tell all of them something, a step plan say; they do one thing after the other. Raises EngineError: a rank
        died or failed."""
        ...

    def take(self, link: Connection) -> tuple[int, Any]:
        """A rank, and its next message through a link that is readable.

        Raises:
            PeersLostError: it is another host's rank that died or failed.
            EngineError: a rank died or failed.
        """
        ...

    def progress(self) -> Mapping[int, int]:
        """Counts of the ranks' work; of those that count it."""
        ...

    def kill(self) -> None:
        """They hang: they would not listen."""
        ...

    def close(self) -> None:
        """Hang up on every rank, which ends it, and kill those that do not leave."""
        ...


StartRanks = Callable[[Sequence[WorkerSetup]], Sequence[Ranks]]
"""Starts all ranks of a plan, on as many hosts as there are. Raises EngineError."""
