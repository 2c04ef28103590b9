"""The engine's loop: one thread that schedules, has the workers compute, and hands out tokens."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count

import psutil

from rowspan.engine.blueprint import Blueprint, check_room, with_trusted_routes
from rowspan.engine.group import WorkerGroup
from rowspan.engine.ranks import StartRanks
from rowspan.errors import EngineError, OutOfMemoryError, RowspanError, UsageError
from rowspan.kvcache.blocks import BlockManager
from rowspan.scheduler.batch import TokenEvent
from rowspan.scheduler.request import Request, SamplingParams
from rowspan.scheduler.scheduler import Scheduler, SchedulerStats
from rowspan.worker.messages import StepOutOfMemory

log = logging.getLogger(__name__)

OFFLOADED_SHARE = 0.9  # of the host's free memory that offloaded weights may take
GIVE_UP_AFTER = 4  # steps out of memory one after the other, each half as large as the one before

EventSink = Callable[[TokenEvent | RowspanError], None]
"""Gets a request's events, then nothing more after one with a finish reason, or after an error. Called on the engine's
thread: it must return at once."""


@dataclass(frozen=True, slots=True)
class _Submit:
    request: Request
    sink: EventSink


@dataclass(frozen=True, slots=True)
class _Cancel:
    seq_id: int


@dataclass(frozen=True, slots=True)
class _AskStats:
    answer: Future[SchedulerStats]


@dataclass(frozen=True, slots=True)
class _Park:
    answer: Future[bool]


@dataclass(frozen=True, slots=True)
class _Stop:
    drain: bool


class EngineCore:
    """Requests in, tokens out. Its methods may be called from any thread."""

    def __init__(
        self,
        blueprint: Blueprint,
        on_progress: Callable[[int], None] = lambda nbytes: None,
        start: StartRanks | None = None,
    ) -> None:
        """Start the workers and the loop.

        Args:
            start: starts ranks on several hosts; None: all are on this one.

        Raises:
            EngineError: a worker could not load.
            SplitError: no transport between the devices can be trusted.
        """
        config = blueprint.config
        self._blueprint = blueprint = with_trusted_routes(blueprint)
        self._start = start
        self._group: WorkerGroup | None = WorkerGroup(blueprint.setups(), config.hang_seconds, on_progress, start)
        try:
            check_room(self._group.n_blocks * config.block_size, config)
        except RowspanError:
            self._group.close()
            raise
        self._scheduler = Scheduler(
            BlockManager(self._group.n_blocks, config.block_size),
            max_sequences=config.parallel,
            token_budget=config.token_budget,
            context_length=blueprint.cache.context_size,
            prefix_reuse=config.prefix_reuse,
            depth=blueprint.plan.n_stages,
            ahead=self._group.ahead,
        )
        self.context_size = self._scheduler.context_length
        self._vocab_size = blueprint.spec.vocab_size
        self.ready = self._group.ready
        self._most_under_way = blueprint.plan.n_stages + self._group.ahead
        self._under_way = 0  # steps
        self._out_of_memory = 0  # steps, one after the other
        self._proven = False  # this group of workers has done a step
        self._sinks: dict[int, EventSink] = {}
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _AskStats | _Park | _Stop] = queue.SimpleQueue()
        self._ids = count()
        self._gate = threading.Lock()  # held to put a command, or to close: none is put that nobody would take
        self._closed = False
        self._draining = False
        self._thread = threading.Thread(target=self._loop, name="rowspan-engine", daemon=True)
        self._thread.start()

    def submit(self, tokens: Sequence[int], params: SamplingParams, sink: EventSink) -> int:
        """Queue a request; its tokens, or the reason it was refused, arrive at `sink`.

        Raises:
            UsageError: a token that is not in the vocabulary.
            EngineError: the engine is closed.
        """
        if any(not 0 <= token < self._vocab_size for token in tokens):
            raise UsageError(
                "The prompt holds a token id that the model does not have.",
                why=f"Its vocabulary is 0 to {self._vocab_size - 1}.",
                fix="Check that the tokenizer belongs to this model.",
            )
        seq_id = next(self._ids)
        seeded = params if params.seed is not None else replace(params, seed=secrets.randbits(63))
        self._put(_Submit(Request(seq_id, list(tokens), seeded), sink))
        return seq_id

    def cancel(self, seq_id: int) -> None:
        """End a request and free its cache blocks; its sink hears nothing more. Unknown ids are ignored."""
        self._inbox.put(_Cancel(seq_id))

    def stats(self) -> SchedulerStats:
        """Raises EngineError when the engine is closed."""
        answer: Future[SchedulerStats] = Future()
        self._put(_AskStats(answer))
        return answer.result(timeout=60)

    def offload(self) -> bool:
        """Move weights from cards to the host's memory; the next request brings them back. False, and nothing is done,
        if something is running, if there are no cards, or if the host has no room.

        Raises EngineError when the engine is closed.
        """
        answer: Future[bool] = Future()
        self._put(_Park(answer))
        return answer.result()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Stop taking requests, let running ones finish for so long, then end the workers. A second call, from another
        thread, may cut the drain of the first one short."""
        with self._gate:
            self._closed = True
        self._inbox.put(_Stop(drain=drain_seconds > 0))
        self._thread.join(drain_seconds or None)
        if self._thread.is_alive():
            self._inbox.put(_Stop(drain=False))
            self._thread.join()

    def _put(self, command: _Submit | _AskStats | _Park) -> None:
        with self._gate:
            if self._closed:
                raise EngineError("The engine is shutting down.", fix="Send the request again in a moment.")
            self._inbox.put(command)

    def _loop(self) -> None:
        try:
            while self._take_commands():
                self._step()
        finally:
            with self._gate:
                self._closed = True
            self._refuse_all(EngineError("The engine was shut down.", fix="Send the request again in a moment."))
            if self._group is not None:
                self._group.close()

    def _take_commands(self) -> bool:
        """Carry out what callers asked for; wait for it when there is nothing to compute. False: time to end."""
        while True:
            if self._draining and not self._scheduler.busy:
                return False
            try:
                command = self._inbox.get(block=not self._scheduler.busy and not self._under_way)
            except queue.Empty:
                return True
            match command:
                case _Submit(request, sink):
                    self._admit(request, sink)
                case _Cancel(seq_id):
                    self._scheduler.cancel(seq_id)
                    self._sinks.pop(seq_id, None)
                case _AskStats(answer):
                    answer.set_result(self._scheduler.stats())
                case _Park(answer):
                    answer.set_result(self._park())
                case _Stop(drain):
                    self._draining = True
                    if not drain:
                        return False

    def _park(self) -> bool:
        on_cards = [rank.weight_bytes for rank in self.ready if rank.on_card]
        room = sum(on_cards) < psutil.virtual_memory().available * OFFLOADED_SHARE
        if self._scheduler.busy or self._group is None or not on_cards or not room:
            return False
        try:
            while self._under_way:  # steps whose requests are gone
                self._take_result(self._group)
            self._group.offload()
        except RowspanError as error:
            self._lose_workers(error)
            return False
        return True

    def _admit(self, request: Request, sink: EventSink) -> None:
        try:
            self._scheduler.add(request)
        except RowspanError as error:
            sink(error)
        else:
            self._sinks[request.seq_id] = sink

    def _step(self) -> None:
        """Have every stage of the pipeline at work, or the next step ready for when this one is done; then take in the
        oldest step's result."""
        try:
            self._see_to_workers()
            assert self._group is not None, "or there was an error"
            while self._under_way < self._most_under_way and (plan := self._scheduler.step()) is not None:
                self._group.send(plan)
                self._under_way += 1
            if self._under_way:
                self._take_result(self._group)
        except RowspanError as error:
            self._lose_workers(error)

    def _take_result(self, group: WorkerGroup) -> None:
        """Wait for the oldest step's result, and hand out its tokens. Raises RowspanError: a worker died or failed."""
        result = group.receive()
        self._under_way -= 1
        if isinstance(result, StepOutOfMemory):
            self._compute_again(result)
            return
        self._proven = True
        self._out_of_memory = 0
        for event in self._scheduler.finish_step(result):
            sink = self._sinks[event.seq_id]
            if event.finish is not None:
                del self._sinks[event.seq_id]
            sink(event)

    def _see_to_workers(self) -> None:
        """Have a whole group. Between requests a rank may end unnoticed, killed by the system for its memory, say: no
        request needs to fail for that."""
        idle = not self._under_way and not self._scheduler.running
        if self._group is not None and idle and not self._group.is_whole:
            log.warning("A worker ended while nothing ran; all are started anew.")
            self._group.close()
            self._group = None
        if self._group is None:
            patience = self._blueprint.config.hang_seconds
            self._group = WorkerGroup(
                self._blueprint.setups(), patience, start=self._start, tokens=self._scheduler.step_tokens
            )
            self._proven = False
            self._adopt_cache(self._group)
        elif self._group.offloaded:
            self._group.restore(self._scheduler.step_tokens)
            self._adopt_cache(self._group)

    def _compute_again(self, out_of_memory: StepOutOfMemory) -> None:
        """A card had no room for a step: its requests go on in smaller steps, with a cache that fits. Raises
        RowspanError: that was tried often enough, or a worker died."""
        self._under_way = 0
        self._out_of_memory += 1
        if self._out_of_memory > GIVE_UP_AFTER:
            raise OutOfMemoryError(
                f"The card of rank {out_of_memory.rank} has no room for the smallest step.",
                fix="End what else uses the card, or start with a smaller --gpu-memory-utilization or --ctx-size.",
            )
        log.warning("The card of rank %d was full; its requests are computed again.", out_of_memory.rank)
        self._scheduler.abandon_steps()
        self._scheduler.shrink_steps()
        assert self._group is not None, "it gave something back"
        if len(self._blueprint.plan.shards) > 1:  # the others wait for what this rank will never send
            self._group.close()
            self._group = None
            self._see_to_workers()
        else:
            self._group.create_cache(self._scheduler.step_tokens)
            self._adopt_cache(self._group)

    def _adopt_cache(self, group: WorkerGroup) -> None:
        """The workers have a new cache, perhaps of another size."""
        for seq_id in self._scheduler.resize(group.n_blocks):
            self._sinks.pop(seq_id)(
                OutOfMemoryError(
                    "There is no room for this request any more.",
                    why=f"The cards' cache shrank to {self._scheduler.context_length} tokens.",
                    fix="Send a shorter one, or end what else uses the cards.",
                )
            )

    def _lose_workers(self, error: RowspanError) -> None:
        """Tell everyone, and start the workers anew. At once if these have worked, so that the next request need not
        wait; those that fail from the start get their next try with the next request."""
        log.error("%s", error)
        if self._group is not None:
            self._group.close()
        self._group = None
        self._under_way = 0
        self._scheduler.abort_all()
        self._fail_all(error)
        if self._proven:
            try:
                self._see_to_workers()
            except RowspanError as again:
                log.error("%s", again)

    def _refuse_all(self, error: RowspanError) -> None:
        """Leave nobody waiting for an answer."""
        self._fail_all(error)
        while not self._inbox.empty():
            match self._inbox.get():
                case _Submit(_, sink):
                    sink(error)
                case _AskStats(answer):
                    answer.set_exception(error)
                case _Park(answer):
                    answer.set_exception(error)

    def _fail_all(self, error: RowspanError) -> None:
        for sink in self._sinks.values():
            sink(error)
        self._sinks.clear()
