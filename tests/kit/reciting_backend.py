"""A backend that recites what a test gives it, word by word, as fast as the test says.

As a program, `python reciting_backend.py PORT TEXT`, it is served until it is killed.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.backends.protocol import (
    BackendName,
    BackendStats,
    Capabilities,
    FinishReason,
    GrammarKind,
    Health,
    HealthState,
    Limits,
    LoadWatch,
    ModelFormat,
    Piece,
    SamplingParams,
    TokenText,
    UnsupportedOptionError,
)

SHORTEST = 0.01  # seconds that a sleep can be trusted with
WORDS = re.compile(r"\s*\S{1,8}|\s+")


class RecitingBackend:
    """Recites `text`, a word of at most 8 characters a token.

    pause: seconds between two tokens, on average.
    asked: the conversations that it was asked to answer.
    """

    name = BackendName.NATIVE
    version = "reciting 1"
    command: tuple[str, ...] = ()
    capabilities = Capabilities((ModelFormat.GGUF,), "at once", seeded=True, timings=False, grammars=tuple(GrammarKind))
    limits = Limits(context_size=32768, parallel=8, vocab_size=None)
    chat_template = None
    special_tokens: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.text = "Hello."
        self.pause = 0.0
        self.asked: list[Sequence[Mapping[str, Any]]] = []
        self._state = HealthState.READY

    def start(self, watch: LoadWatch) -> None:
        self._state = HealthState.READY

    def stop(self, *, drain_seconds: float = 0.0) -> None:
        pass

    def health(self) -> Health:
        return Health(self._state)

    async def stats(self) -> BackendStats | None:
        return BackendStats(0, 0, 100, 0, 10, 100, 20, 500, 0)

    async def sleep(self) -> None:
        self._state = HealthState.ASLEEP

    async def wake(self) -> None:
        self._state = HealthState.READY

    async def encode(self, text: str) -> list[int]:
        return list(range(len(text)))

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        self.asked.append(messages)
        return list(range(sum(len(str(message["content"])) // 4 for message in messages) + 1))

    embedding = None

    async def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        raise UnsupportedOptionError("A reciting backend has no embeddings.")

    async def encode_pair(self, first: str, second: str) -> list[int]:
        raise UnsupportedOptionError("A reciting backend does not rank.")

    async def decode(self, tokens: Sequence[int]) -> str:
        return ""

    async def stream(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        words = WORDS.findall(self.text)[: params.max_tokens]
        finish = FinishReason.STOP if len(words) < params.max_tokens else FinishReason.LENGTH
        at_once = max(1, round(SHORTEST / self.pause)) if self.pause else 50
        for number, word in enumerate(words, 1):
            if number % at_once == 0:
                await asyncio.sleep(self.pause * at_once)
            raw = word.encode()
            told = (TokenText(number, raw, -0.5, ((raw, -0.5), (b" other", -1.5))),) if params.logprobs else ()
            yield Piece(word, told, number, finish if number == len(words) else None, cached=1)


if __name__ == "__main__":
    import uvicorn

    from rowspan.config import ServerConfig
    from rowspan.server.app import create_app

    backend = RecitingBackend()
    backend.text, backend.pause = sys.argv[2], 0.05
    app = create_app(backend, ServerConfig(port=int(sys.argv[1])), "reciting")
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, lifespan="off")
