"""A backend that is another program, supervised: what is common to all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from rowspan.backends.child import Address, Child, ChildError, ChildState, Patience
from rowspan.backends.child_log import ChildLog
from rowspan.backends.dialect import Dialect
from rowspan.backends.http_stream import BrokenAnswerError, HttpRefusal, events
from rowspan.backends.protocol import (
    BackendStats,
    Capabilities,
    Health,
    HealthState,
    Limits,
    LoadWatch,
    Piece,
    SamplingParams,
    Setup,
)
from rowspan.errors import ContextOverflowError, EngineError, UsageError

T = TypeVar("T")

HEALTH = {
    ChildState.READY: HealthState.READY,
    ChildState.LOADING: HealthState.LOADING,
    ChildState.CRASHED: HealthState.LOADING,
    ChildState.STOPPED: HealthState.ASLEEP,
    ChildState.FAILED: HealthState.FAILED,
}


class ChildBackend:
    """See `rowspan.backends.protocol.Backend`."""

    def __init__(self, dialect: Dialect, setup: Setup, patience: Patience | None = None) -> None:
        self.name = dialect.name
        self.version = dialect.version
        self.command = tuple(dialect.launch(0, "").command)
        self._dialect = dialect
        self._child = Child(dialect, ChildLog(setup.backend.log_folder / f"{dialect.name}.log"), patience)
        self._limits: Limits | None = None
        self._asleep: Address | None = None  # where it lies asleep, without having been ended
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
        self._child.start(watch.said)
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
        """Ids of the program's processes; what it started descends from them. Empty while it does not run. Without the
        guardian, which must stay awake."""
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

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return await self._explained(self._dialect.encode_chat(self._address(), messages))

    async def decode(self, tokens: Sequence[int]) -> str:
        return await self._explained(self._dialect.decode(self._address(), tokens))

    async def stream(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str] = (), *, continuation: bool = False
    ) -> AsyncGenerator[Piece, None]:
        self._check(tokens, params, stops)
        path, body = self._dialect.ask(tokens, params, stops)
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
        """What any engine refuses, in the words of ours."""
        limits = self.limits
        if not tokens:
            raise UsageError("The prompt is empty.", fix="Send at least one token.")
        if not all(stops):
            raise UsageError("A stop string is empty.", fix="Leave it out.")
        if limits.vocab_size is not None and max(tokens) >= limits.vocab_size:
            raise UsageError(
                "The prompt holds a token id that the model does not have.",
                why=f"Its vocabulary is 0 to {limits.vocab_size - 1}.",
                fix="Check that the tokenizer belongs to this model.",
            )
        if len(tokens) >= limits.context_size:
            raise ContextOverflowError(
                f"The prompt has {len(tokens)} tokens; the context holds {limits.context_size}.",
                why="Prompt and answer share the context, and an answer takes at least one token.",
                fix="Shorten the prompt, or start with a larger --ctx-size.",
            )

    def _address(self) -> Address:
        if self._closed:
            raise EngineError("The engine is shutting down.", fix="Send the request again in a moment.")
        if self._asleep is not None:
            raise EngineError(f"{self._dialect.title} is asleep.", fix="Try again in a moment.")
        return self._child.address()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A drain waits for what is counted."""
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
        """A wrong request is the client's; anything else is the engine's failure."""
        if refusal.status in (400, 413, 422):
            return UsageError(f"{self._dialect.title} refuses the request.", why=refusal.message)
        return ChildError(f"{self._dialect.title} answers with status {refusal.status}.", why=refusal.message)

    def _broken(self, why: str) -> EngineError:
        return ChildError(f"{self._dialect.title} failed in the middle of a request.", why=why)
