"""The object that every route uses: the backend, with a limit on how many requests may wait for it at once."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from rowspan.backends.protocol import Backend, Piece, SamplingParams
from rowspan.config import ServerConfig
from rowspan.server.error_replies import BusyError, UnknownModelError
from rowspan.server.idle import IdlePolicy
from rowspan.server.metrics import Metrics

LATEST_TAG = ":latest"  # Ollama's clients add it to names without a tag

Pieces = AsyncGenerator[tuple[int, Piece], None]
"""Pieces of several answers as they come, each with its answer's index."""


@dataclass(frozen=True)
class AnswerJob:
    """One answer to compute."""

    prompt: Sequence[int]
    params: SamplingParams
    stops: tuple[str, ...]
    continuation: bool  # whether the text continues the prompt's, rather than being an answer
    shown: tuple[str, ...] = ()  # special tokens that are part of the text nevertheless


class Service:
    """One model, served."""

    def __init__(self, backend: Backend, config: ServerConfig, model_name: str, aliases: Collection[str] = ()) -> None:
        self.backend = backend
        self.config = config
        self.model_name = model_name
        self._names = {name.lower() for name in (model_name, *aliases)}
        self.created = int(time.time())
        self.fingerprint = f"rowspan-{importlib.metadata.version('rowspan')}"
        self._limit = backend.limits.parallel + config.max_waiting
        self._unfinished = 0
        self.metrics = Metrics(backend, model_name)
        self._idle = IdlePolicy(backend, config.sleep_idle_seconds, lambda: self._unfinished > 0)

    def check_model(self, name: str | None) -> None:
        """Raise UnknownModelError unless the name is one of the served model's, in any case; none stands for it."""
        if name and not {name.lower(), name.lower().removesuffix(LATEST_TAG)} & self._names:
            raise UnknownModelError(
                f"There is no model {name!r:.200} here.", field="model", fix=f"This server has {self.model_name}."
            )

    async def wake(self) -> None:
        """Wake the backend, before a request uses it."""
        await self._idle.wake()

    async def sleep(self) -> bool:
        """Put the backend to sleep until the next request, unless one is unfinished; whether that was done."""
        return await self._idle.sleep()

    async def answer(self, jobs: Sequence[AnswerJob], arrived: float) -> Pieces:
        """Compute all answers at once. Closing the iterator cancels those that are unfinished.

        Args:
            arrived: when the request arrived, by time.perf_counter().

        Raises:
            BusyError: too many other requests wait.
            RowspanError: a job was refused, or the engine failed.
        """
        with self.admitted(len(jobs)):
            if len(jobs) > 1:
                async with aclosing(self._several(jobs, arrived)) as arrivals:
                    async for arrival in arrivals:
                        yield arrival
            else:  # without a task and a queue in between: each token passes here
                async with aclosing(self._stream(jobs[0])) as pieces:
                    with self.metrics.answer(len(jobs[0].prompt), arrived) as note:
                        async for piece in pieces:
                            note(piece)
                            yield 0, piece

    def _stream(self, job: AnswerJob) -> AsyncGenerator[Piece, None]:
        return self.backend.stream(job.prompt, job.params, job.stops, continuation=job.continuation, shown=job.shown)

    async def _several(self, jobs: Sequence[AnswerJob], arrived: float) -> Pieces:
        arrivals: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

        async def follow(index: int, job: AnswerJob) -> None:
            try:
                with self.metrics.answer(len(job.prompt), arrived) as note:
                    async with aclosing(self._stream(job)) as stream:
                        async for piece in stream:
                            note(piece)
                            arrivals.put_nowait((index, piece))
                arrivals.put_nowait(None)
            except Exception as error:
                arrivals.put_nowait(error)

        tasks = [asyncio.create_task(follow(index, job)) for index, job in enumerate(jobs)]
        unfinished = len(tasks)
        try:
            while unfinished:
                match await arrivals.get():
                    case None:
                        unfinished -= 1
                    case Exception() as error:
                        raise error
                    case arrival:
                        yield arrival
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def admitted(self, n_answers: int) -> Iterator[None]:
        """Count answers as waiting for the length of the block. `answer` does so, and routes do before it while they
        tokenize prompts, which takes long enough that load must be shed first. A request for many answers is admitted
        whenever there is any room, since otherwise it might never be.

        Raises:
            BusyError: too many other requests wait.
        """
        if self._unfinished >= self._limit:
            raise BusyError(
                "The server is busy.",
                why=f"{self._unfinished} answers are being computed or wait for it.",
                fix="Try again in a moment, or start the server with a larger --max-waiting.",
            )
        self._unfinished += n_answers
        try:
            yield
        finally:
            self._unfinished -= n_answers
