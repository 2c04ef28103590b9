"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, which Claude Code and others speak."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response

from rowspan.server.anthropic.schema import CountRequest, MessagesRequest
from rowspan.server.anthropic.to_chat import to_chat
from rowspan.server.anthropic.writer import MessageWriter
from rowspan.server.chat_turn import steps
from rowspan.server.connection import EventStream, while_connected
from rowspan.server.metrics import ARRIVED
from rowspan.server.openai.chat import prepare_chat
from rowspan.server.openai.chat_format import ChatFormat
from rowspan.server.service import Service


def messages_routes(service: Service) -> APIRouter:
    router = APIRouter()
    form = ChatFormat.of(service.backend, service.config)

    @router.post("/v1/messages", summary="Answer a conversation (Anthropic's API)")
    async def create_message(request: MessagesRequest, http: Request) -> Response:
        chat = await prepare_chat(service, form, to_chat(request, service.model_name))
        writer = MessageWriter(request.model, chat, request.wants_thinking, http.url.path)
        answer = steps(chat, service.answer(chat.jobs, http.scope[ARRIVED]))
        if not request.stream:
            whole = await while_connected(http.receive, writer.whole(answer))
            return Response(orjson.dumps(whole), media_type="application/json")
        first = await while_connected(http.receive, anext(answer))
        return EventStream(writer.stream(first, answer, http.scope))

    @router.post("/v1/messages/count_tokens", summary="Count the tokens of a conversation (Anthropic's API)")
    async def count_tokens(request: CountRequest) -> dict[str, int]:
        chat = await prepare_chat(service, form, to_chat(request, service.model_name))
        return {"input_tokens": chat.prompt_tokens}

    return router
