"""Ranks that follow a script instead of computing, each in a thread."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from rowspan.errors import EngineError
from rowspan.scheduler.batch import SampledToken, StepPlan, StepResult
from rowspan.worker.messages import (
    CreateCache,
    Loaded,
    MemoryProfiled,
    ProfileMemory,
    StepOutOfMemory,
    WorkerReady,
    WorkerSetup,
)

Script = Callable[[int, StepPlan], bool]
"""Whether a rank has room for a step."""


class ScriptedRanks:
    """See `rowspan.engine.ranks.Ranks`. Rank 0 samples; the next token is the number of those before."""

    def __init__(self, setups: Sequence[WorkerSetup], has_room: Script, n_blocks: Sequence[int]) -> None:
        """Args: n_blocks: that each has room for."""
        self._setups = setups
        self._has_room = has_room
        self._n_blocks = n_blocks
        pairs = [socket.socketpair() for _ in setups]
        self.links = [Connection(ours.detach()) for ours, _ in pairs]
        self.profiled: list[tuple[int, ProfileMemory]] = []  # by which rank
        self.opened: list[int] = []  # blocks
        for rank, (_, theirs) in enumerate(pairs):
            Thread(target=self._run, args=(rank, Connection(theirs.detach())), daemon=True).start()

    is_whole = True

    def send(self, order: object) -> None:
        for link in self.links:
            link.send(order)

    def take(self, link: Connection) -> tuple[int, Any]:
        try:
            return self.links.index(link), link.recv()
        except EOFError:
            raise EngineError("A rank ended.") from None

    def progress(self) -> Mapping[int, int]:
        return {}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        for link in self.links:
            link.close()

    def _run(self, rank: int, link: Connection) -> None:
        with link:
            link.send(Loaded(rank))
            while True:
                try:
                    order = link.recv()
                except (EOFError, OSError):
                    return
                if isinstance(order, ProfileMemory) and order.turn == self._setups[rank].turn:
                    self.profiled.append((rank, order))
                    link.send(MemoryProfiled(rank, self._n_blocks[rank]))
                elif isinstance(order, CreateCache):
                    self.opened.append(order.n_blocks)
                    link.send(WorkerReady(rank, "script", True, False, order.n_blocks, 0, 0, 0.0))
                elif isinstance(order, StepPlan) and not self._has_room(rank, order):
                    link.send(StepOutOfMemory(rank, order.number))
                elif isinstance(order, StepPlan) and rank == 0 and self._has_room(1, order):
                    link.send(self._result(order))

    def _result(self, plan: StepPlan) -> StepResult:
        sampled = [
            SampledToken(chunk.seq_id, (chunk.position + len(chunk.tokens)) % 100)
            for chunk in plan.chunks
            if chunk.samples
        ]
        return StepResult(plan.number, tuple(sampled))
