"""Ranks of another host, as the head controls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from rowspan.engine.ranks import PeersLostError
from rowspan.errors import EngineError
from rowspan.hosts.host_messages import Failure, Progress, Said, Start
from rowspan.worker.messages import WorkerSetup

NOBODY = -1  # in place of a rank's number, for messages of the host itself


class RemoteRanks:
    """The `rowspan.engine.ranks.Ranks` of another host. The link lives as long as they do: hanging up ends them."""

    def __init__(self, who: str, link: Connection, setups: Sequence[WorkerSetup], on_close: Callable[[], None]) -> None:
        """Make the host start the ranks.

        Args:
            who: the host's name, for errors.

        Raises:
            EngineError: the host has vanished.
        """
        self.links = [link]
        self._who = who
        self._link = link
        self._on_close = on_close
        self._counts: Mapping[int, int] = {}
        self._send(Start(tuple(setups)))

    @property
    def is_whole(self) -> bool:
        try:
            while self._link.poll():
                self.take(self._link)
        except EngineError:
            return False
        return True

    def send(self, order: object) -> None:
        self._send(order)

    def take(self, link: Connection) -> tuple[int, Any]:
        try:
            message = link.recv()
        except (EOFError, OSError) as error:
            raise self._gone(error) from None
        match message:
            case Said(rank, said):
                return rank, said
            case Progress(counts):
                self._counts = counts
            case Failure(what, why, fix, lost_peers):
                kind = PeersLostError if lost_peers else EngineError
                raise kind(f"{self._who}: {what}", why=why, fix=fix)
        return NOBODY, message

    def progress(self) -> Mapping[int, int]:
        return self._counts

    def kill(self) -> None:
        """Do nothing: their host kills them if they do not end."""

    def close(self) -> None:
        self._link.close()
        self._on_close()

    def _send(self, message: object) -> None:
        try:
            self._link.send(message)
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> EngineError:
        how = "hung up" if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError) else "does not answer"
        return EngineError(
            f"{self._who} {how}.",
            why="It was stopped, lost power, or cannot be reached any more.",
            fix="Requests work again as soon as `rowspan serve` runs there and reaches this host.",
        )
