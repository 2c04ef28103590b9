"""The engine's loop: one thread that schedules steps, has the workers compute them, and delivers tokens."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count

import psutil

from rowspan.engine.blueprint import (
    Blueprint,
    check_room,
    check_writes,
    samples_on_card,
    tells_scores,
    with_trusted_routes,
)
from rowspan.engine.group import WorkerGroup
from rowspan.engine.ranks import StartRanks
from rowspan.errors import CheckpointError, EngineError, OutOfMemoryError, RowspanError, UsageError
from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import StepPlan, TokenEvent
from rowspan.scheduler.limits import check_lengths, check_text_length, check_vocabulary
from rowspan.scheduler.request import FinishReason, Request, SamplingParams, WantedStates
from rowspan.scheduler.scheduler import Scheduler, SchedulerStats
from rowspan.worker.logits_processors import needs_last_token
from rowspan.worker.messages import StepOutOfMemory

log = logging.getLogger(__name__)

OFFLOADED_SHARE = 0.9  # of the host's free memory that offloaded weights may take
NO_ANSWER = SamplingParams(max_tokens=0, temperature=0, seed=0)  # of requests for hidden states
GIVE_UP_AFTER = 4  # steps in a row that ran out of memory, each half as large as the one before

EventSink = Callable[[TokenEvent | RowspanError], None]
"""Receives a request's events; after an event with a finish reason, or an error, it is not called again. It runs on the
engine's thread, so it must return at once.
"""


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
    """Takes requests and delivers tokens. Its methods may be called from any thread."""

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
        blueprint.files.check()
        self._group: WorkerGroup | None = WorkerGroup(blueprint.setups(), config.hang_seconds, on_progress, start)
        try:
            blueprint.files.check()
            check_room(self._group.n_blocks * config.block_size, config)
        except RowspanError:
            self._group.close()
            raise
        self._scheduler = Scheduler(
            CacheManager(blueprint.cache_layout, self._group.n_blocks),
            max_sequences=config.parallel,
            token_budget=config.token_budget,
            context_length=blueprint.cache.context_size,
            prefix_reuse=config.prefix_reuse,
            depth=blueprint.plan.n_stages,
            ahead=self._group.ahead,
            guesses=config.guesses,
            whole_texts=not blueprint.spec.causal,
        )
        self.context_size = self._scheduler.context_length
        self._vocab_size = blueprint.spec.vocab_size
        self.ready = self._group.ready
        self._most_under_way = blueprint.plan.n_stages + self._group.ahead
        self._under_way = 0  # number of steps
        self._sent: tuple[StepPlan, float] | None = None  # the one under way, if it is alone, and when it was sent
        self._out_of_memory = 0  # number of steps in a row
        self._proven = False  # whether this group of workers has completed a step
        self._failure: RowspanError | None = None
        self._latest_stats = self._scheduler.stats()
        self._sinks: dict[int, EventSink] = {}
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _AskStats | _Park | _Stop] = queue.SimpleQueue()
        self._ids = count()
        self._gate = threading.Lock()  # held to put a command, or to close: none is put that nobody would take
        self._closed = False
        self._draining = False
        self._thread = threading.Thread(target=self._loop, name="rowspan-engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> RowspanError | None:
        """The reason why nothing can be answered at present: there are no workers, and the next request tries to start
        them; or the loop has ended by a fault of its own, for good. None if the engine works.
        """
        return self._failure

    @property
    def latest_stats(self) -> SchedulerStats:
        """The scheduler's figures when the current step began, or when the last one ended. Returns at once, however
        long a step takes.
        """
        return self._latest_stats

    def submit(self, tokens: Sequence[int], params: SamplingParams, sink: EventSink) -> int:
        """Queue a request; its tokens, or the reason why it was refused, arrive at `sink`.

        Raises:
            UsageError: a token is not in the vocabulary, the prompt is empty, or no tokens are asked for.
            ContextOverflowError: the prompt is longer than any context here.
            EngineError: the engine is closed.
        """
        check_writes(self._blueprint.spec)
        check_lengths(len(tokens), params.max_tokens, self._blueprint.cache.context_size)  # the cheap check first
        check_vocabulary(tokens, self._vocab_size)
        if params.prompt_logprobs is not None and not tells_scores(self._blueprint.config):
            raise UsageError(
                "Log-probabilities of a prompt are only to be had from native kernels yet.",
                fix="Leave out echo or logprobs, or run the model on --devices cpu.",
            )
        if params.needs_order and samples_on_card(self._blueprint):
            raise UsageError(
                "top_n_sigma, typical_p, XTC and dynatemp_range are not to be had where a card chooses the tokens.",
                why="They need all tokens in order.",
                fix="Use top_p or min_p, or run the model on --devices cpu.",
            )
        seq_id = next(self._ids)
        seeded = params if params.seed is not None else replace(params, seed=secrets.randbits(63))
        self._put(_Submit(Request(seq_id, list(tokens), seeded, needs_last_token(seeded)), sink))
        return seq_id

    def submit_text(self, tokens: Sequence[int], states: WantedStates, sink: EventSink) -> int:
        """Queue a request for hidden states; they, or the reason it was refused, arrive at `sink`. Raises as `submit`
        does.
        """
        check_text_length(len(tokens), self._blueprint.cache.context_size)
        check_vocabulary(tokens, self._vocab_size)
        seq_id = next(self._ids)
        self._put(_Submit(Request(seq_id, list(tokens), NO_ANSWER, states=states), sink))
        return seq_id

    def cancel(self, seq_id: int) -> None:
        """End a request and free its cache blocks; its sink is not called again. Unknown ids are ignored."""
        self._inbox.put(_Cancel(seq_id))

    def stats(self) -> SchedulerStats:
        """The scheduler's figures once earlier calls have been processed and the current step has ended. Raises
        EngineError if the engine is closed.
        """
        answer: Future[SchedulerStats] = Future()
        self._put(_AskStats(answer))
        return answer.result(timeout=60)

    def offload(self) -> bool:
        """Move weights from cards to the host's memory; the next request brings them back. Returns False, having done
        nothing, if a request is running, if there are no cards, or if the host has no room.

        Raises EngineError if the engine is closed.
        """
        answer: Future[bool] = Future()
        self._put(_Park(answer))
        return answer.result()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more requests, let running ones finish for `drain_seconds`, then end the workers. A second call, from
        another thread, may cut the drain of the first one short.
        """
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
                raise self._failure or EngineError(
                    "The engine is shutting down.", fix="Send the request again in a moment."
                )
            self._inbox.put(command)

    def _loop(self) -> None:
        reason: RowspanError = EngineError("The engine was shut down.", fix="Send the request again in a moment.")
        try:
            while self._take_commands():
                self._step()
        except Exception as error:
            self._failure = reason = _explained(error)
        finally:
            with self._gate:
                self._closed = True
            self._refuse_all(reason)
            if self._group is not None:
                self._group.close()

    def _take_commands(self) -> bool:
        """Carry out the callers' commands; wait for one if there is nothing to compute. Returns False if the loop must
        end.
        """
        while True:
            if self._draining and not self._scheduler.busy:
                return False
            self._latest_stats = self._scheduler.stats()
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
            while self._under_way:  # take the results of steps whose requests have ended
                self._take_result(self._group)
            self._group.offload()
        except Exception as error:
            self._lose_workers(_explained(error))
            return False
        return True

    def _admit(self, request: Request, sink: EventSink) -> None:
        self._sinks[request.seq_id] = sink
        try:
            self._blueprint.files.check(mapped=True)
        except CheckpointError as error:
            self._lose_workers(error)
            return
        try:
            self._scheduler.add(request)
        except RowspanError as error:
            del self._sinks[request.seq_id]
            sink(error)

    def _step(self) -> None:
        """Keep every pipeline stage at work, or have the next step ready when the current one is done; then take the
        oldest step's result.
        """
        try:
            self._see_to_workers()
            assert self._group is not None, "or there was an error"
            while self._under_way < self._most_under_way and (plan := self._scheduler.step()) is not None:
                self._sent = None if self._under_way else (plan, time.perf_counter())
                self._group.send(plan)
                self._under_way += 1
            self._latest_stats = self._scheduler.stats()
            if self._under_way:
                self._take_result(self._group)
        except Exception as error:  # whatever it is: those who wait must hear of it, and others can be served
            self._lose_workers(_explained(error))

    def _take_result(self, group: WorkerGroup) -> None:
        """Wait for the oldest step's result, and deliver its tokens. Raises RowspanError if a worker died or failed."""
        result = group.receive()
        self._under_way -= 1
        if self._sent is not None and not self._under_way:
            plan, sent = self._sent
            self._scheduler.note_time(plan, time.perf_counter() - sent)
        if isinstance(result, StepOutOfMemory):
            self._compute_again(result)
            return
        self._proven = True
        self._out_of_memory = 0
        events = self._scheduler.finish_step(result)
        self._latest_stats = self._scheduler.stats()  # before callers learn that they are done, and ask for figures
        for event in events:
            sink = self._sinks[event.seq_id]
            if event.finish is not None:
                del self._sinks[event.seq_id]
            sink(event if event.finish is not FinishReason.ERROR else _not_finite())

    def _see_to_workers(self) -> None:
        """Make sure that no rank is missing. Between requests a rank may end unnoticed, for instance killed by the
        system for its memory: no request needs to fail for that.
        """
        idle = not self._under_way and not self._scheduler.running
        if self._group is not None and idle and not self._group.is_whole:
            log.warning("A worker ended while nothing ran; all are started anew.")
            self._group.close()
            self._group = None
        if self._group is None:
            patience = self._blueprint.config.hang_seconds
            self._blueprint.files.check()
            self._group = WorkerGroup(
                self._blueprint.setups(), patience, start=self._start, tokens=self._scheduler.step_tokens
            )
            self._blueprint.files.check()  # what they have loaded
            self._proven = False
            self._failure = None
            self._adopt_cache(self._group)
        elif self._group.offloaded:
            self._group.restore(self._scheduler.step_tokens)
            self._adopt_cache(self._group)

    def _compute_again(self, out_of_memory: StepOutOfMemory) -> None:
        """Recover from a step for which a card had no room: its requests go on in smaller steps, with a cache that
        fits. Raises RowspanError if that was tried often enough, or if a worker died.
        """
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
        """Tell the scheduler about the workers' new cache, which may have another size."""
        for seq_id in self._scheduler.resize(group.n_blocks):
            self._sinks.pop(seq_id)(
                OutOfMemoryError(
                    "There is no room for this request any more.",
                    why=f"The cards' cache shrank to {self._scheduler.context_length} tokens.",
                    fix="Send a shorter one, or end what else uses the cards.",
                )
            )

    def _lose_workers(self, error: RowspanError) -> None:
        """Fail all requests, and start the workers anew: at once if these have worked before, so that the next request
        need not wait; workers that fail from the start get their next try with the next request.
        """
        log.error("%s", error)
        if self._group is not None:
            self._group.close()
        self._group = None
        self._under_way = 0
        self._scheduler.abort_all()
        self._fail_all(error)
        self._failure = error
        if self._proven:
            try:
                self._see_to_workers()
            except Exception as again:
                self._failure = _explained(again)
                log.error("%s", self._failure)

    def _refuse_all(self, error: RowspanError) -> None:
        """Send every waiting caller an error."""
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


def _not_finite() -> EngineError:
    error = EngineError(
        "The model computed numbers that are none (NaN or infinity), so there is no next token to choose.",
        why="The model file is damaged, or a number overflowed in the type it is computed in.",
        fix="Fetch the file again (`rowspan pull`); if it stays so, try --dtype float32.",
    )
    log.error("%s", error)
    return error


def _explained(error: Exception) -> RowspanError:
    """The error to send to waiting callers. An unforeseen one is logged with its traceback."""
    if isinstance(error, RowspanError):
        return error
    log.error("The engine failed in a way that was not foreseen.", exc_info=error)
    return EngineError("The engine failed.", why=f"{type(error).__name__}: {error}.", fix="Send the request again.")
