"""Turns pieces of answers into what the client gets: one JSON object, or a stream of them.

This file holds what chat and completions have in common; a `ChoiceWriter` decides how a single choice looks.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from fastapi import Request, Response
from starlette.types import Scope

from rowspan.backends.protocol import FinishReason, Piece, TokenText
from rowspan.server.connection import DONE, EventStream, event, json_event, while_connected
from rowspan.server.error_replies import ERROR_CODE, code_of, describe
from rowspan.server.metrics import ARRIVED
from rowspan.server.openai.schema import GenerationRequest
from rowspan.server.service import AnswerJob, Pieces, Service

Json = dict[str, Any]


@dataclass
class ServerAnswer:
    """All pieces of one answer, put together."""

    text: str = ""
    tokens: list[TokenText] = field(default_factory=list)
    generated: int = 0
    finish: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.prompt + piece.tokens
        self.generated, self.finish = piece.generated, piece.finish


class ChoiceWriter(Protocol):
    """Formats one choice for an API, without its index; its finish reason only where it is another than the
    engine's.
    """

    id_prefix: str
    whole_object: str  # the field "object" of a whole answer
    chunk_object: str  # the field "object" of a chunk of a stream

    def whole(self, index: int, answer: ServerAnswer) -> Json: ...

    def part(self, index: int, piece: Piece) -> Json | None:
        """A chunk for a piece of the choice; None if there is nothing to send yet. A piece with a finish reason is
        always sent.
        """
        ...


class Reply:
    """Formats the answers to one request."""

    def __init__(self, service: Service, request: GenerationRequest, writer: ChoiceWriter, prompt_tokens: int) -> None:
        self._writer = writer
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self._guesses = (0, 0)
        self._usage_at_end, self._usage_always = request.usage_wanted
        self._head = {
            "id": f"{writer.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.model_name,
            "system_fingerprint": service.fingerprint,
        }

    async def whole(self, pieces: Pieces, n_answers: int) -> Json:
        answers = [ServerAnswer() for _ in range(n_answers)]
        async with aclosing(pieces):
            async for index, piece in pieces:
                self._note_cached(piece)
                answers[index].add(piece)
        choices = [
            {"index": index, "finish_reason": answer.finish, **self._writer.whole(index, answer)}
            for index, answer in enumerate(answers)
        ]
        usage = self._usage(sum(answer.generated for answer in answers))
        return {**self._head, "object": self._writer.whole_object, "choices": choices, "usage": usage}

    async def stream(self, first: tuple[int, Piece], rest: Pieces, scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events. An error in the middle becomes the last event, in place of [DONE], and is noted in
        the request's scope.
        """
        generated: dict[int, int] = {}

        def chunk(index: int, piece: Piece) -> bytes:
            self._note_cached(piece)
            generated[index] = piece.generated
            choice = self._writer.part(index, piece)
            if choice is None:
                return b""
            return self._chunk(
                [{"index": index, "finish_reason": piece.finish, **choice}],
                sum(generated.values()) if self._usage_always else None,
            )

        async with aclosing(rest):
            try:
                if data := chunk(*first):
                    yield data
                async for arrival in rest:
                    if data := chunk(*arrival):
                        yield data
            except Exception as error:
                scope[ERROR_CODE] = code_of(error)
                yield event(describe(error)[1])
                return
        if self._usage_at_end:
            yield self._chunk([], sum(generated.values()))
        yield DONE

    def _chunk(self, choices: Sequence[Json], completion_tokens: int | None) -> bytes:
        usage = {} if completion_tokens is None else {"usage": self._usage(completion_tokens)}
        return json_event({**self._head, "object": self._writer.chunk_object, "choices": choices, **usage})

    def _note_cached(self, piece: Piece) -> None:
        self._cached_tokens = max(self._cached_tokens, piece.cached)
        self._guesses = self._guesses[0] + piece.guesses[0], self._guesses[1] + piece.guesses[1]

    def _usage(self, completion_tokens: int) -> Json:
        guessed, right = self._guesses
        told = {"accepted_prediction_tokens": right, "rejected_prediction_tokens": guessed - right}
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        } | ({"completion_tokens_details": told} if guessed else {})


async def respond(
    service: Service, http: Request, request: GenerationRequest, jobs: Sequence[AnswerJob], reply: Reply
) -> Response:
    """Compute, and answer in the form that the client asked for. Nothing is sent before the first token is there, so
    that any earlier error gets its own status.
    """
    pieces = service.answer(jobs, http.scope[ARRIVED])
    if not request.stream:
        whole = await while_connected(http.receive, reply.whole(pieces, len(jobs)))
        return Response(orjson.dumps(whole), media_type="application/json")
    first = await while_connected(http.receive, anext(pieces))
    return EventStream(reply.stream(first, pieces, http.scope))
