"""The native engine as its callers see it: chats and prompts in, text out. No torch in this process."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.engine.core import EngineCore
from rowspan.engine.generation import Generation, Piece
from rowspan.engine.mailbox import LoopMailbox
from rowspan.engine.ranks import StartRanks
from rowspan.errors import RowspanError
from rowspan.scheduler.batch import TokenEvent
from rowspan.scheduler.request import SamplingParams
from rowspan.scheduler.scheduler import SchedulerStats
from rowspan.text.prompt import encode_chat, tokenizer_and_template


class Engine:
    """A running model. Close it, or use it in a `with` block: it owns worker processes."""

    def __init__(
        self,
        blueprint: Blueprint,
        on_progress: Callable[[int], None] = lambda nbytes: None,
        start: StartRanks | None = None,
    ) -> None:
        """Start the workers.

        Args:
            on_progress: told the file bytes the workers read since the last call.
            start: starts ranks on several hosts; None: all are on this one.

        Raises:
            RowspanError: the model cannot be loaded.
        """
        self.blueprint = blueprint
        with ThreadPoolExecutor(1) as beside:  # a vocabulary takes 0.3 s, in which the workers start
            text = beside.submit(tokenizer_and_template, blueprint.checkpoint.metadata)

            def progress(nbytes: int) -> None:
                if text.done():
                    text.result()  # one that cannot be read ends the loading
                on_progress(nbytes)

            self._core = EngineCore(blueprint, progress, start)
            try:
                self.tokenizer, self.template = text.result()
            except BaseException:
                self._core.close()
                raise
        self.ready = self._core.ready
        self.context_size = self._core.context_size
        self._mailbox: LoopMailbox | None = None

    @classmethod
    def open(cls, config: EngineConfig, on_progress: Callable[[int], None] = lambda nbytes: None) -> Engine:
        """Read the model, decide on the split and the cache, start the workers. Raises as the steps do."""
        return cls(make_blueprint(config), on_progress)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **template_options: Any) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Raises:
            UsageError: the model has no chat template, or its template refuses these messages.
        """
        return encode_chat(self.template, self.tokenizer, messages, **template_options)

    def generate(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str] = (), *, continuation: bool = False
    ) -> Iterator[Piece]:
        """Pieces of the answer as they come. Leaving the loop early cancels the request.

        Args:
            params: `stop_tokens` are set to the model's own end tokens where left empty.
            continuation: the text goes on after the prompt's (raw completions), rather than being an answer.

        Raises:
            RowspanError: the request was refused, or the engine failed.
        """
        params, generation = self._prepare(params, stops, continuation)
        events: queue.SimpleQueue[TokenEvent | RowspanError] = queue.SimpleQueue()
        seq_id = self._core.submit(tokens, params, events.put)
        try:
            while True:
                piece = generation.advance(_event(events.get()))
                yield piece
                if piece.finish is not None:
                    return
        finally:
            self._core.cancel(seq_id)

    async def stream(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str] = (), *, continuation: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """As `generate`, for asyncio. Closing the iterator, or cancelling the task, cancels the request."""
        params, generation = self._prepare(params, stops, continuation)
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = LoopMailbox(loop)
        post = self._mailbox
        events: asyncio.Queue[TokenEvent | RowspanError] = asyncio.Queue()
        seq_id = self._core.submit(tokens, params, lambda event: post.put(events, event))
        try:
            while True:
                piece = generation.advance(_event(await events.get()))
                yield piece
                if piece.finish is not None:
                    return
        finally:
            self._core.cancel(seq_id)

    def stats(self) -> SchedulerStats:
        return self._core.stats()

    def offload(self) -> bool:
        """See `EngineCore.offload`."""
        return self._core.offload()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """End the workers; with a drain time, after the running requests have finished or the time is up."""
        self._core.close(drain_seconds=drain_seconds)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(
        self, params: SamplingParams, stops: Sequence[str], continuation: bool
    ) -> tuple[SamplingParams, Generation]:
        if not params.stop_tokens:
            params = replace(params, stop_tokens=self.tokenizer.end_ids)
        return params, Generation(self.tokenizer, params, stops, continuation=continuation)


def _event(event: TokenEvent | RowspanError) -> TokenEvent:
    if isinstance(event, RowspanError):
        raise event
    return event
