"""Rowspan's own engine as a backend."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.backends.own_text import OwnText
from rowspan.backends.protocol import (
    BackendName,
    BackendStats,
    Capabilities,
    Embedding,
    GrammarKind,
    Health,
    HealthState,
    Limits,
    LoadWatch,
    ModelFormat,
    Piece,
    SamplingParams,
)
from rowspan.engine.blueprint import Blueprint, check_writes
from rowspan.engine.engine import Engine
from rowspan.engine.pooling import Pooling
from rowspan.engine.ranks import StartRanks
from rowspan.errors import EngineError


class NativeBackend:
    """The native engine as a `rowspan.backends.protocol.Backend`. `rowspan.text` reads tokenizer and template from the
    GGUF file.
    """

    name = BackendName.NATIVE
    command: tuple[str, ...] = ()
    capabilities = Capabilities(
        formats=(ModelFormat.GGUF,),
        sleeps="its workers end, and are started again; with --sleep-level 1 weights go from cards to RAM",
        seeded=True,
        timings=False,
        grammars=tuple(GrammarKind),
    )

    def __init__(self, blueprint: Blueprint, engine: Engine | None = None, start: StartRanks | None = None) -> None:
        """Prepare to run a model.

        Args:
            engine: an engine that runs already.
            start: starts ranks on several hosts; None: all are on this one.
        """
        self.blueprint = blueprint
        self.version = f"rowspan {importlib.metadata.version('rowspan')}"
        self._engine = engine
        self._start = start
        self._asleep = False

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise EngineError(
                f"The native engine is {'asleep' if self._asleep else 'not running'}.", fix="Try again in a moment."
            )
        return self._engine

    @property
    def _text(self) -> OwnText:
        return OwnText(self.engine.tokenizer, self.engine.template)

    @property
    def limits(self) -> Limits:
        return Limits(self.engine.context_size, self.blueprint.config.parallel, self.blueprint.spec.vocab_size)

    def start(self, watch: LoadWatch) -> None:
        total = sum(size.file for size in self.blueprint.sizes)
        loaded = 0  # in the end more than the total, where a tensor is read twice: a tied embedding and head

        def report(nbytes: int) -> None:
            nonlocal loaded
            loaded += nbytes
            watch.read(min(loaded, total), total)

        self._engine = Engine(self.blueprint, report, self._start)
        self._asleep = False

    def stop(self, *, drain_seconds: float = 0.0) -> None:
        if self._engine is not None:
            self._engine.close(drain_seconds=drain_seconds)

    def health(self) -> Health:
        if self._asleep:
            return Health(HealthState.ASLEEP)
        if self._engine is None:
            return Health(HealthState.LOADING)
        failure = self._engine.failure
        return Health(HealthState.READY) if failure is None else Health(HealthState.FAILED, str(failure))

    async def stats(self) -> BackendStats | None:
        return None if self._engine is None else self._engine.latest_stats

    async def sleep(self) -> None:
        if self._engine is None:
            return
        if self.blueprint.config.sleep_level == 1 and await asyncio.to_thread(self._engine.offload):
            self._asleep = True
            return
        engine, self._engine, self._asleep = self._engine, None, True
        await asyncio.to_thread(engine.close)

    async def wake(self) -> None:
        if self._engine is None:
            await asyncio.to_thread(self.start, LoadWatch())
        self._asleep = False  # offloaded weights are restored by the first step

    async def encode(self, text: str) -> list[int]:
        return await self._text.encode(text, self.engine.context_size)

    @property
    def chat_template(self) -> str | None:
        template = None if self._engine is None else self._engine.template
        return None if template is None else template.source

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return {} if self._engine is None else self._text.special_tokens

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        check_writes(self.blueprint.spec)
        return await self._text.encode_chat(messages, self.engine.context_size, **options)

    async def decode(self, tokens: Sequence[int]) -> str:
        return await self._text.decode_beside(tokens)

    @property
    def embedding(self) -> Embedding | None:
        spec = self.blueprint.spec
        judges = spec.causal and "rerank" in spec.name.lower()
        return Embedding(spec.state_size, self.engine.pooling is Pooling.RANK, spec.causal, judges)

    async def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return await self.engine.embedding_async(tokens)

    async def encode_pair(self, first: str, second: str) -> list[int]:
        return await asyncio.to_thread(self.engine.tokenizer.encode_pair, first, second)

    def stream(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        return self.engine.stream(tokens, params, stops, continuation=continuation, shown=shown)
