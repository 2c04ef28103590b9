"""Sends a rank's answers to the engine, in order. A thread of its own waits for a card's results: the rank takes up the
next plan meanwhile, and each result is sent as soon as it is there.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from types import TracebackType


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that a card is still computing."""

    wait: Callable[[], object]


class Answers:
    """Sends answers in order. The thread is started with the first answer that must be waited for: handing an answer
    over to it takes longer than sending.
    """

    def __init__(self, engine: Connection, failure: Callable[[Exception], object]) -> None:
        """Prepare to send. Args: failure: makes the answer that reports an error during waiting."""
        self._engine = engine
        self._failure = failure
        self._queue: SimpleQueue[object] = SimpleQueue()
        self._thread: Thread | None = None

    def put(self, answer: object) -> None:
        if self._thread is None and isinstance(answer, Later):
            self._thread = Thread(target=self._send_all, name="rowspan-answers", daemon=True)
            self._thread.start()
        if self._thread is None:
            self._send(answer)
        else:
            self._queue.put(answer)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _send_all(self) -> None:
        try:
            while (answer := self._queue.get()) is not None:
                self._send(answer.wait() if isinstance(answer, Later) else answer)
        except OSError:
            pass  # the engine is gone
        except Exception as error:
            with suppress(OSError):
                self._send(self._failure(error))  # it hangs up then, which ends this rank

    def _send(self, message: object) -> None:
        self._engine.send_bytes(pickle.dumps(message))  # `send` takes half as much time again
