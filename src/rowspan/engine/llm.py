"""The engine from Python: `LLM("smollm2:135m").chat("Hello")`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan import hub
from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.engine.generation import Piece, TokenText
from rowspan.engine.pooling import Pooling, unit
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import FinishReason, SamplingParams

Message = Mapping[str, Any]
EMBEDDED_AT_ONCE = 64  # texts


@dataclass(frozen=True)
class Answer:
    """A finished answer."""

    text: str
    tokens: tuple[TokenText, ...]
    prompt_tokens: int
    finish: FinishReason

    def __str__(self) -> str:
        return self.text


class LLM:
    """A model, loaded and ready. Close it, or use it in a `with` block: it owns worker processes.

    Sampling options of the methods are the fields of `rowspan.scheduler.request.SamplingParams`, and `stop`, a list of
    strings that end the answer.
    """

    def __init__(self, model: str = hub.DEFAULT_MODEL, *, devices: str = "cpu:0", split: str = "layer", **options: Any):
        """Load a model.

        Args:
            model: a path, a catalog name, or hf:org/repo; fetched when it is not here yet.
            devices: such as "cpu:0,cpu:1".
            split: "none", "layer" or "row".
            options: further fields of `rowspan.config.EngineConfig`.

        Raises:
            RowspanError: says what is wrong and what to do.
        """
        _check_names(options, EngineConfig, "option")
        if split not in list(SplitMode):
            raise UsageError(f"{split!r} is no split mode.", fix="Choose none, layer or row.")
        config = EngineConfig(
            model_path=hub.resolve(model).path, devices=parse_devices(devices), split_mode=SplitMode(split), **options
        )
        self.engine = Engine.open(config.with_env())

    def chat(self, messages: str | Sequence[Message], *, stop: Sequence[str] = (), **sampling: Any) -> Answer:
        """Answer a conversation; a string is one user message.

        Raises:
            RowspanError: the conversation does not fit the context, an option is unknown, or the engine failed.
        """
        tokens = self._encode(messages)
        return _collect(self.engine.generate(tokens, _params(sampling), stop), len(tokens))

    def stream(self, messages: str | Sequence[Message], *, stop: Sequence[str] = (), **sampling: Any) -> Iterator[str]:
        """Like `chat`, but yields the answer in pieces. Leaving the loop ends the answer."""
        pieces = self.engine.generate(self._encode(messages), _params(sampling), stop)
        return (piece.text for piece in pieces if piece.text)

    def complete(self, prompt: str, *, stop: Sequence[str] = (), **sampling: Any) -> Answer:
        """Continue a text. Raises the same as `chat`."""
        tokens = self.engine.tokenizer.encode(prompt)
        return _collect(self.engine.generate(tokens, _params(sampling), stop, continuation=True), len(tokens))

    def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> NDArray[np.float32]:
        """Embeddings of texts, computed together: (texts, size), each of length 1.

        Args:
            dimensions: how many of their first elements to keep; None: all.

        Raises:
            RowspanError: a text does not fit the context, or the model gives scores instead.
        """
        if isinstance(texts, str):
            raise UsageError("embed() takes a list of texts.", fix=f"Write [{texts[:20]!r}].")
        if self.engine.pooling is Pooling.RANK:
            raise UsageError(f"{self.engine.blueprint.spec.name} ranks pairs of texts, and embeds none.")
        tokens = [self.engine.tokenizer.encode(text) for text in texts]
        with ThreadPoolExecutor(max(1, min(EMBEDDED_AT_ONCE, len(tokens)))) as pool:
            embeddings = pool.map(self.engine.embedding, tokens)
            return np.array([unit(embedding, dimensions) for embedding in embeddings], np.float32)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, messages: str | Sequence[Message]) -> list[int]:
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.engine.encode_chat(conversation)


def _collect(pieces: Iterator[Piece], prompt_tokens: int) -> Answer:
    text: list[str] = []
    tokens: list[TokenText] = []
    finish = FinishReason.STOP
    for piece in pieces:
        text.append(piece.text)
        tokens.extend(piece.tokens)
        finish = piece.finish or finish
    return Answer("".join(text), tuple(tokens), prompt_tokens, finish)


def _params(sampling: Mapping[str, Any]) -> SamplingParams:
    _check_names(sampling, SamplingParams, "sampling option")
    return SamplingParams(**sampling)


def _check_names(given: Mapping[str, Any], kind: type, what: str) -> None:
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise UsageError(f"{name!r} is no {what}.", fix=f"There are {', '.join(known)}.")
