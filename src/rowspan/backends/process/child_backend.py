"""A backend that supervises another program: the part that all such backends have in common."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowspan.backends.process.child import Address, Child, ChildError, ChildState, Patience
from rowspan.backends.process.child_log import ChildLog
from rowspan.backends.process.dialect import Dialect
from rowspan.backends.process.http_stream import BrokenAnswerError, HttpRefusal, events
from rowspan.backends.protocol import (
    BackendStats,
    Capabilities,
    Embedding,
    Health,
    HealthState,
    Limits,
    LoadWatch,
    Piece,
    SamplingParams,
    Setup,
    UnsupportedOptionError,
)
from rowspan.errors import EngineError, UsageError
from rowspan.scheduler.limits import check_lengths, check_vocabulary
from rowspan.text.stop import check_stops

T = TypeVar("T")

HEALTH = {
    ChildState.READY: HealthState.READY,
    ChildState.LOADING: HealthState.LOADING,
    ChildState.CRASHED: HealthState.LOADING,
    ChildState.STOPPED: HealthState.ASLEEP,
    ChildState.FAILED: HealthState.FAILED,
}


class ChildBackend:
    """A `rowspan.backends.protocol.Backend` that is another program."""

    def __init__(self, dialect: Dialect, setup: Setup, patience: Patience | None = None) -> None:
        self.name = dialect.name
        self.version = dialect.version
        self.placement = dialect.placement
        self.command = tuple(dialect.launch(0, "").command)
        self._dialect = dialect
        self._child = Child(dialect, ChildLog(setup.backend.log_folder / f"{dialect.name}.log"), patience)
        self._limits: Limits | None = None
        self._asleep: Address | None = None  # address of the program if it sleeps without having been ended
        self._closed = self._hurry = False
        self._running = 0
        self._finished = threading.Condition()

    @property
    def capabilities(self) -> Capabilities:
        return self._dialect.capabilities

    @property
    def limits(self) -> Limits:
        if self._limits is None:
            raise EngineError(f"{self._dialect.title} has not started.", fix="Try again in a moment.")
        return self._limits

    def start(self, watch: LoadWatch) -> None:
        self._closed = self._hurry = False
        try:
            self._child.start(watch.said)
        except ChildError as error:
            error.fix = self._dialect.remedy(error.why) or error.fix
            raise
        try:
            self._limits = asyncio.run(self._explained(self._dialect.limits(self._child.address())))
        except BaseException:
            self._child.stop()
            raise

    def stop(self, *, drain_seconds: float = 0.0) -> None:
        self._closed = True
        with self._finished:
            if not drain_seconds:
                self._hurry = True
                self._finished.notify_all()
            self._finished.wait_for(lambda: self._running == 0 or self._hurry, drain_seconds)
        self._child.stop()

    def health(self) -> Health:
        reason = self._child.reason
        return Health(HealthState.ASLEEP if self._asleep else HEALTH[self._child.state], str(reason) if reason else "")

    def processes(self) -> list[int]:
        """Ids of the program's processes, of which all that it started descend; empty while it does not run. The
        guardian, which must not be paused, is not among them.
        """
        return self._child.processes()

    async def stats(self) -> BackendStats | None:
        return None

    async def sleep(self) -> None:
        address = self._address()
        if await self._explained(self._dialect.sleep(address)):
            self._asleep = address
        else:
            await asyncio.to_thread(self._child.stop)

    async def wake(self) -> None:
        if self._asleep is not None and self._child.state == ChildState.READY:
            await self._explained(self._dialect.wake(self._asleep))
        elif self._child.state in (ChildState.STOPPED, ChildState.FAILED):
            await asyncio.to_thread(self._child.start)
        self._asleep = None

    async def encode(self, text: str) -> list[int]:
        return await self._explained(self._dialect.encode(self._address(), text))

    @property
    def chat_template(self) -> str | None:
        return self._dialect.chat_template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return self._dialect.special_tokens

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        return await self._explained(self._dialect.encode_chat(self._address(), messages, **options))

    async def decode(self, tokens: Sequence[int]) -> str:
        return await self._explained(self._dialect.decode(self._address(), tokens))

    embedding: Embedding | None = None

    async def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        raise self._without_embeddings()

    async def encode_pair(self, first: str, second: str) -> list[int]:
        raise self._without_embeddings()

    def _without_embeddings(self) -> UnsupportedOptionError:
        return UnsupportedOptionError(
            f"Embeddings are not to be had with --backend {self.name}.", fix="Use --backend native."
        )

    async def stream(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        self._check(tokens, params, stops)
        path, body = self._dialect.ask(tokens, params, stops, shown)
        reader = self._dialect.reader(params, continuation=continuation)
        with self._counted():
            try:
                async with aclosing(events(self._address(), path, body)) as arriving:
                    async for event in arriving:
                        piece = reader.read(event)
                        if piece is None:
                            continue
                        yield piece
                        if piece.finish is not None:
                            return
                raise BrokenAnswerError("Its answer ended without a reason.")
            except HttpRefusal as refusal:
                raise self._refused(refusal) from None
            except BrokenAnswerError as error:
                raise self._broken(str(error)) from None
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise self._broken(f"It answers nonsense: {error!r:.200}.") from error

    def _check(self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str]) -> None:
        """Raise UsageError if any engine would refuse this request."""
        limits = self.limits
        check_stops(stops)
        check_lengths(len(tokens), params.max_tokens, limits.context_size)
        if limits.vocab_size is not None:
            check_vocabulary(tokens, limits.vocab_size)
        default = SamplingParams()
        for name in self.capabilities.refused:
            if getattr(params, name) != getattr(default, name):
                raise UnsupportedOptionError(
                    f"{name} cannot be had with --backend {self.name}.", fix="Leave it out, or use --backend native."
                )
        if params.grammar is not None and params.grammar.kind not in self.capabilities.grammars:
            raise UnsupportedOptionError(
                f"A {params.grammar.kind} cannot be enforced with --backend {self.name}.", fix="Use --backend native."
            )

    def _address(self) -> Address:
        if self._closed:
            raise EngineError("The engine is shutting down.", fix="Send the request again in a moment.")
        if self._asleep is not None:
            raise EngineError(f"{self._dialect.title} is asleep.", fix="Try again in a moment.")
        return self._child.address()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request as running for the length of the block; a drain waits for such requests."""
        with self._finished:
            self._running += 1
        try:
            yield
        finally:
            with self._finished:
                self._running -= 1
                self._finished.notify_all()

    async def _explained(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            return await asked
        except HttpRefusal as refusal:
            raise self._refused(refusal) from None
        except BrokenAnswerError as error:
            raise self._broken(str(error)) from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise self._broken(f"It answers nonsense: {error!r:.200}.") from error

    def _refused(self, refusal: HttpRefusal) -> UsageError | EngineError:
        """Turn a refusal into an error: a wrong request is the client's fault, anything else the engine's."""
        if refusal.status in (400, 413, 422):
            return UsageError(f"{self._dialect.title} refuses the request.", why=refusal.message)
        return ChildError(f"{self._dialect.title} answers with status {refusal.status}.", why=refusal.message)

    def _broken(self, why: str) -> EngineError:
        return ChildError(f"{self._dialect.title} failed in the middle of a request.", why=why)
