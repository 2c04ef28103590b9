"""Writes answers as llama-server does: one object, or a stream of them, each with what is new."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from rowspan.backends.protocol import FinishReason, Piece, TokenText
from rowspan.server.connection import event, json_event
from rowspan.server.error_replies import ERROR_CODE, code_of, describe
from rowspan.server.service import Pieces

Json = dict[str, Any]


@dataclass
class CompletionWriter:
    """Writes one answer.

    prompt: as text. settings: what the answer was generated with. n_probs: likeliest tokens to tell with each.
    """

    model: str
    prompt: str
    prompt_tokens: int
    settings: Mapping[str, Any]
    arrived: float  # by time.perf_counter()
    n_probs: int
    return_tokens: bool
    _text: str = ""
    _first: float = 0.0
    _generated: int = 0
    _tokens: list[TokenText] = field(default_factory=list)

    async def whole(self, pieces: Pieces) -> Json:
        async with aclosing(pieces):
            async for _, piece in pieces:
                self._note(piece)
                self._tokens += piece.tokens
        probabilities = {"completion_probabilities": _probabilities(self._tokens)} if self.n_probs else {}
        ids = [token.token for token in self._tokens] if self.return_tokens else []
        return self._end(piece) | {"content": self._text, "tokens": ids} | probabilities

    async def stream(self, first: Piece, rest: Pieces, scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events. An error in the middle becomes the last one, and is noted in the scope."""
        piece = first
        yield json_event(self._part(piece))
        try:
            async with aclosing(rest):
                async for _, piece in rest:
                    yield json_event(self._part(piece))
        except Exception as error:
            scope[ERROR_CODE] = code_of(error)
            yield event(describe(error)[1])

    def _part(self, piece: Piece) -> Json:
        self._note(piece)
        part: Json = {
            "index": 0,
            "content": piece.text,
            "tokens": [token.token for token in piece.tokens],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": piece.generated,
            "tokens_evaluated": self.prompt_tokens,
        }
        if self.n_probs:
            part["completion_probabilities"] = _probabilities(piece.tokens)
        return part if piece.finish is None else self._end(piece) | {"content": piece.text, "tokens": part["tokens"]}

    def _note(self, piece: Piece) -> None:
        self._first = self._first or time.perf_counter()
        self._text += piece.text
        self._generated = piece.generated

    def _end(self, last: Piece) -> Json:
        stopped = {FinishReason.LENGTH: "limit", FinishReason.STOP: "word" if last.stop else "eos"}
        return {
            "index": 0,
            "id_slot": -1,
            "stop": True,
            "model": self.model,
            "tokens_predicted": last.generated,
            "tokens_evaluated": self.prompt_tokens,
            "tokens_cached": self.prompt_tokens + last.generated,
            "generation_settings": dict(self.settings),
            "prompt": self.prompt,
            "has_new_line": "\n" in self._text,
            "truncated": False,
            "stop_type": stopped.get(last.finish or FinishReason.ERROR, "none"),
            "stopping_word": last.stop or "",
            "timings": self._timings(last),
        }

    def _timings(self, last: Piece) -> Json:
        prompt = 1000 * (self._first - self.arrived)
        predicted = 1000 * (time.perf_counter() - self._first)
        computed = self.prompt_tokens - last.cached
        return {
            "cache_n": last.cached,
            "prompt_n": computed,
            "prompt_ms": prompt,
            "prompt_per_token_ms": prompt / max(1, computed),
            "prompt_per_second": 1000 * computed / prompt if prompt else 0.0,
            "predicted_n": last.generated,
            "predicted_ms": predicted,
            "predicted_per_token_ms": predicted / max(1, last.generated),
            "predicted_per_second": 1000 * last.generated / predicted if predicted else 0.0,
        }


def _probabilities(tokens: Sequence[TokenText]) -> list[Json]:
    return [
        {
            **_one(token.raw, token.logprob),
            "id": token.token,
            "top_logprobs": [_one(raw, logprob) for raw, logprob in token.top],
        }
        for token in tokens
    ]


def _one(raw: bytes, logprob: float | None) -> Json:
    return {"token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": logprob}
