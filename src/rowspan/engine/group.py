"""All ranks of one engine: starts them, sends them steps, watches them, and always ends them together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from selectors import EVENT_READ, DefaultSelector
from typing import Any, TypeVar

from rowspan.engine.hang_detector import LOOK_SECONDS, HangDetector
from rowspan.engine.local_ranks import LocalRanks
from rowspan.engine.ranks import EXIT_SECONDS, PeersLostError, Ranks, StartRanks
from rowspan.errors import EngineError, OutOfMemoryError, RowspanError
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.messages import (
    CreateCache,
    Loaded,
    LoadProgress,
    MemoryProfiled,
    Offload,
    Offloaded,
    ProfileMemory,
    Restore,
    StepOutOfMemory,
    WorkerReady,
    WorkerSetup,
)

Answer = TypeVar("Answer")


class WorkerGroup:
    """All ranks of a plan. If any rank fails, the group has failed: the caller closes it and may start another."""

    def __init__(
        self,
        setups: Sequence[WorkerSetup],
        hang_seconds: float,
        on_progress: Callable[[int], None] = lambda nbytes: None,
        start: StartRanks | None = None,
        tokens: int | None = None,
    ) -> None:
        """Spawn the ranks and wait until all have loaded.

        Args:
            setups: one per rank, without the places where they meet, which the starter of the ranks fills in.
            hang_seconds: how long natively computing ranks may make no progress within a step.
            on_progress: called with the number of file bytes that all ranks have read since the last call.
            start: starts ranks on several hosts; None: all are on this one.
            tokens: see `create_cache`.

        Raises:
            EngineError: a rank could not load; the error has the rank's own reason.
        """
        self._output_rank = setups[0].plan.output_rank
        self._n_ranks = len(setups)
        self._turns = Counter(setup.turn for setup in setups)
        self.offloaded = False
        self.ready: tuple[WorkerReady, ...] = ()
        self._hang_seconds = hang_seconds
        self._hang_detector: HangDetector | None = None
        self._parts: Sequence[Ranks] = start(setups) if start is not None else [LocalRanks(setups)]
        self._links = {link: part for part in self._parts for link in part.links}
        self._readable = DefaultSelector()
        for link in self._links:
            self._readable.register(link, EVENT_READ)
        try:
            self._await(Loaded, on_progress=on_progress)
            self.create_cache(tokens)
        except BaseException:
            self.close()
            raise
        if len(self._progress()) == len(setups):
            self._hang_detector = HangDetector(self._progress, hang_seconds)

    @property
    def n_blocks(self) -> int:
        """Number of KV cache blocks: the rank with the least room decides."""
        return min(rank.n_blocks for rank in self.ready)

    @property
    def ahead(self) -> bool:
        """Whether steps may be planned ahead: see `rowspan.scheduler.scheduler.Scheduler`."""
        return all(rank.ahead for rank in self.ready)

    def create_cache(self, tokens: int | None = None) -> None:
        """Make all ranks allocate a KV cache, in place of the one before. Raises EngineError if a rank has no room, or
        died.

        Args:
            tokens: number of tokens in the largest step for the time being; None: as large as a step may ever be.
        """
        profiled: list[MemoryProfiled] = []
        for turn, n_ranks in sorted(self._turns.items()):
            self._tell(ProfileMemory(turn, tokens))
            profiled += self._await(MemoryProfiled, n_ranks)
        self._tell(CreateCache(min(rank.n_blocks for rank in profiled)))
        self.ready = self._await(WorkerReady)

    def offload(self) -> None:
        """Move weights from cards to the host's memory. Raises EngineError if a rank died or failed."""
        self._tell(Offload())
        self._await(Offloaded)
        self.offloaded = True

    def restore(self, tokens: int | None = None) -> None:
        """Move the weights back, and allocate new KV caches: see `create_cache`."""
        self._tell(Restore())
        self._await(Loaded)
        self.create_cache(tokens)
        self.offloaded = False

    def send(self, plan: StepPlan) -> None:
        """Make all ranks compute a step, after those sent before.

        Raises:
            EngineError: a rank died or failed; the group is of no more use.
        """
        if self._hang_detector is not None:
            self._hang_detector.begin()
        self._tell(plan)

    def receive(self) -> StepResult | StepOutOfMemory:
        """Wait for the oldest step under way: its result, or the ranks that had no memory for it.

        Raises:
            EngineError: a rank died, failed, or hangs; the group is of no more use.
        """
        while True:
            rank, message = self._receive()
            if isinstance(message, StepOutOfMemory) or (rank == self._output_rank and isinstance(message, StepResult)):
                return message

    def run(self, plan: StepPlan) -> StepResult:
        """Run one step on all ranks. Raises the same as `send` and `result`."""
        self.send(plan)
        return self.result()

    def result(self) -> StepResult:
        """Like `receive`, but raises OutOfMemoryError if a card had no room for the step."""
        result = self.receive()
        if isinstance(result, StepOutOfMemory):
            raise OutOfMemoryError(
                f"The card of rank {result.rank} has no room for this step.",
                fix="Use a smaller --ubatch-size or --gpu-memory-utilization.",
            )
        return result

    @property
    def is_whole(self) -> bool:
        """Whether all ranks are alive. Call it between steps only: then no rank has other messages to send."""
        return all(part.is_whole for part in self._parts)

    def close(self) -> None:
        """End all ranks."""
        self._readable.close()
        for part in self._parts:
            part.close()

    def _tell(self, order: object) -> None:
        for part in self._parts:
            try:
                part.send(order)
            except PeersLostError as error:
                raise self._culprit(part, error) from None

    def _await(
        self,
        kind: type[Answer],
        n_ranks: int | None = None,
        on_progress: Callable[[int], None] = lambda nbytes: None,
    ) -> tuple[Answer, ...]:
        """Wait for an answer of this kind from `n_ranks` ranks, or from every rank."""
        answers: dict[int, Answer] = {}
        while len(answers) < (n_ranks or self._n_ranks):
            rank, message = self._receive()
            if isinstance(message, LoadProgress):
                on_progress(message.nbytes)
            elif isinstance(message, kind):
                answers[rank] = message
        return tuple(answers[rank] for rank in sorted(answers))

    def _receive(self) -> tuple[int, Any]:
        """Wait for the next message of any rank, and return its number with it."""
        while not (readable := self._readable.select(LOOK_SECONDS if self._hang_detector else None)):
            assert self._hang_detector is not None, "else there is no time-out"
            if (rank := self._hang_detector.hangs()) is not None:
                raise self._hung(rank)
        link = readable[0][0].fileobj
        assert isinstance(link, Connection)
        part = self._links[link]
        try:
            return part.take(link)
        except PeersLostError as error:
            raise self._culprit(part, error) from None

    def _culprit(self, loser: Ranks, error: EngineError) -> EngineError:
        """The error that ended the ranks which others have lost: their own host reports it soon, or has vanished
        itself.
        """
        links = {link: part for link, part in self._links.items() if part is not loser}
        deadline = time.monotonic() + EXIT_SECONDS
        while links and (readable := wait(links, max(0.0, deadline - time.monotonic()))):
            for link in readable:
                assert isinstance(link, Connection)
                try:
                    links[link].take(link)
                except PeersLostError:
                    del links[link]
                except EngineError as reason:
                    return reason
        return error

    def _progress(self) -> dict[int, int]:
        return {rank: count for part in self._parts for rank, count in part.progress().items()}

    def _hung(self, rank: int) -> RowspanError:
        for part in self._parts:
            part.kill()
        return EngineError(
            f"The worker of rank {rank} has done nothing for {self._hang_seconds:g} s.",
            why="It was stopped, or its machine is out of memory or of processor time.",
            fix="Send the request again: the workers are started anew.",
        )
