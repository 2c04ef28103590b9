"""The native engine's interface: chats and prompts in, text out. No torch in this process."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import Blueprint, check_writes, make_blueprint
from rowspan.engine.core import EngineCore
from rowspan.engine.generation import Generation, Piece, stop_words
from rowspan.engine.mailbox import LoopMailbox
from rowspan.engine.pooling import pooling_of
from rowspan.engine.ranks import StartRanks
from rowspan.errors import RowspanError
from rowspan.scheduler.batch import TokenEvent
from rowspan.scheduler.request import SamplingParams, WantedStates
from rowspan.scheduler.scheduler import SchedulerStats
from rowspan.text.grammar import check_grammar
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
            on_progress: called with the number of file bytes that the workers have read since the last call.
            start: starts ranks on several hosts; None: all are on this one.

        Raises:
            RowspanError: the model cannot be loaded.
        """
        self.blueprint = blueprint
        self._tokens_holding: dict[tuple[str, ...], frozenset[int]] = {}
        self.pooling = pooling_of(blueprint.config.pooling, blueprint.spec, blueprint.checkpoint.metadata)
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
        """Read the model, decide on the split and the cache, and start the workers. Raises the same as these steps."""
        return cls(make_blueprint(config), on_progress)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **template_options: Any) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Raises:
            UsageError: the model has no chat template, or its template refuses these messages; or it is an encoder.
        """
        check_writes(self.blueprint.spec)
        return encode_chat(self.template, self.tokenizer, messages, **template_options)

    def generate(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> Iterator[Piece]:
        """Yield pieces of the answer as they come. Leaving the loop early cancels the request.

        Args:
            params: if `stop_tokens` are empty, they are set to the model's own end tokens.
            continuation: the text continues the prompt's (raw completions), rather than being an answer.
            shown: special tokens that are part of the text nevertheless, as they are spelled.

        Raises:
            RowspanError: the request was refused, or the engine failed.
        """
        if params.grammar is not None:
            check_grammar(params.grammar)
        params, generation = self._prepare(params, stops, continuation, shown)
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

    def embed(self, tokens: Sequence[int], states: WantedStates = WantedStates.LAST) -> NDArray[np.float32]:
        """Hidden states of a text after the model's final norm: (1, hidden size) of its last token, or (tokens, hidden
        size) of all.

        Raises:
            RowspanError: the request was refused, or the engine failed.
        """
        events: queue.SimpleQueue[TokenEvent | RowspanError] = queue.SimpleQueue()
        seq_id = self._core.submit_text(tokens, states, events.put)
        try:
            hidden = _event(events.get()).hidden
            assert hidden is not None, "it asked for nothing else"
            return hidden
        finally:
            self._core.cancel(seq_id)

    def embedding(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """A text's hidden states pooled, (size,), at whatever length. Raises the same as `embed`."""
        return self.pooling.of(self.embed(tokens, self.pooling.states))

    async def embedding_async(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Like `embedding`, for asyncio. Cancelling the task cancels the request."""
        post, events = self._post(), asyncio.Queue[TokenEvent | RowspanError]()
        seq_id = self._core.submit_text(tokens, self.pooling.states, lambda event: post.put(events, event))
        try:
            hidden = _event(await events.get()).hidden
            assert hidden is not None, "it asked for nothing else"
            return self.pooling.of(hidden)
        finally:
            self._core.cancel(seq_id)

    async def stream(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        """Like `generate`, for asyncio. Closing the iterator, or cancelling the task, cancels the request."""
        if params.grammar is not None:
            await asyncio.to_thread(check_grammar, params.grammar)
        params, generation = self._prepare(params, stops, continuation, shown)
        post = self._post()
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

    @property
    def latest_stats(self) -> SchedulerStats:
        """See `EngineCore.latest_stats`."""
        return self._core.latest_stats

    @property
    def failure(self) -> RowspanError | None:
        """See `EngineCore.failure`."""
        return self._core.failure

    def offload(self) -> bool:
        """See `EngineCore.offload`."""
        return self._core.offload()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """End the workers, after the running requests have finished or `drain_seconds` have passed."""
        self._core.close(drain_seconds=drain_seconds)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _post(self) -> LoopMailbox:
        """The way of events to the running event loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = LoopMailbox(loop)
        return self._mailbox

    def _prepare(
        self, params: SamplingParams, stops: Sequence[str], continuation: bool, shown: Collection[str]
    ) -> tuple[SamplingParams, Generation]:
        ends = params.stop_tokens or self.tokenizer.end_ids
        if also_stops := params.also_stops | stop_words(self.tokenizer, stops).keys():
            ends = also_stops | (frozenset() if params.ignore_eos else ends)
            params = replace(params, ignore_eos=False, also_stops=frozenset())
        if params.dry is not None and not params.dry.breakers:
            params = replace(params, dry=replace(params.dry, breakers=self._holding(params.dry.breaking_texts)))
        if params.bad_texts:
            params = replace(params, bad_words=(*params.bad_words, *self._spelled(params.bad_texts)), bad_texts=())
        params = replace(params, stop_tokens=ends)
        return params, Generation(self.tokenizer, params, stops, continuation=continuation, shown=shown)

    def _holding(self, texts: tuple[str, ...]) -> frozenset[int]:
        """The tokens that hold one of these texts."""
        if texts not in self._tokens_holding:
            wanted = [text.encode() for text in texts if text]
            spelled = ((token, self.tokenizer.token_bytes(token)) for token in range(self.tokenizer.vocab_size))
            self._tokens_holding.clear()  # the last list is kept: a vocabulary of 250,000 takes 0.3 s to look through
            self._tokens_holding[texts] = frozenset(
                token for token, raw in spelled if any(text in raw for text in wanted)
            )
        return self._tokens_holding[texts]

    def _spelled(self, texts: tuple[str, ...]) -> Iterator[tuple[int, ...]]:
        """Tokens of texts as they stand at the beginning of an answer, and behind other words."""
        for text in texts:
            for form in dict.fromkeys((text, f" {text.lstrip()}")):
                if tokens := self.tokenizer.encode(form, add_special=False, parse_special=False):
                    yield tuple(tokens)


def _event(event: TokenEvent | RowspanError) -> TokenEvent:
    if isinstance(event, RowspanError):
        raise event
    return event
