"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from rowspan.backends.protocol import Piece, TokenText
from rowspan.server.error_replies import FieldError
from rowspan.server.reply import Json, Reply, ServerAnswer, respond
from rowspan.server.sampling_params import choice_params, limited, sampling_params
from rowspan.server.schema import ChatRequest, refuse_unsupported
from rowspan.server.service import AnswerJob, Service


class ChatWriter:
    """Writes choices as messages, and parts of choices as changes (deltas) to a message."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs
        self._introduced: set[int] = set()

    def whole(self, index: int, answer: ServerAnswer) -> Json:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(answer.tokens)}

    def part(self, index: int, piece: Piece) -> Json | None:
        has_logprobs = self._with_logprobs and bool(piece.tokens)
        if not (piece.text or piece.finish or has_logprobs):
            return None
        delta: dict[str, Any] = {"content": piece.text} if piece.text or has_logprobs else {}
        if index not in self._introduced:
            # The role is sent with the first content, not before it: clients take the first chunk for the first token.
            self._introduced.add(index)
            delta = {"role": "assistant", "content": piece.text}
        return {"delta": delta, "logprobs": self._logprobs(piece.tokens)}

    def _logprobs(self, tokens: list[TokenText] | tuple[TokenText, ...]) -> Json | None:
        if not self._with_logprobs:
            return None
        return {
            "content": [
                {
                    **_token(token.raw, token.logprob),
                    "top_logprobs": [_token(raw, logprob) for raw, logprob in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }


def _token(raw: bytes, logprob: float | None) -> Json:
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter()
    backend = service.backend

    @router.post("/v1/chat/completions", summary="Answer a conversation")
    async def create_chat_completion(request: ChatRequest, http: Request) -> Response:
        service.check_model(request.model)
        refuse_unsupported(request)
        await service.wake()
        if request.top_logprobs and not request.logprobs:
            raise FieldError("top_logprobs needs logprobs.", field="top_logprobs", fix='Send "logprobs": true, too.')
        with service.admitted(request.n or 1):
            prompt = await backend.encode_chat([message.for_template() for message in request.messages])
        params = sampling_params(
            request,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            vocab_size=backend.limits.vocab_size,
        )
        params = limited(
            params, request.max_completion_tokens or request.max_tokens, len(prompt), backend.limits.context_size
        )
        jobs = [
            AnswerJob(prompt, choice_params(params, choice), request.stops, continuation=False)
            for choice in range(request.n or 1)
        ]
        reply = Reply(service, request, ChatWriter(with_logprobs=bool(request.logprobs)), len(prompt))
        return await respond(service, http, request, jobs, reply)

    return router
