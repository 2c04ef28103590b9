"""POST /v1/responses, which agents speak. Conversations that may be continued are kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from rowspan.server.chat_turn import steps
from rowspan.server.connection import EventStream, while_connected
from rowspan.server.error_replies import FieldError
from rowspan.server.metrics import ARRIVED
from rowspan.server.openai.chat import prepare_chat
from rowspan.server.openai.chat_format import ChatFormat
from rowspan.server.responses.schema import Item, ResponsesRequest
from rowspan.server.responses.to_chat import messages_of, to_chat
from rowspan.server.responses.writer import ResponseWriter
from rowspan.server.service import Service

Json = dict[str, Any]
KEPT_RESPONSES = 256
KEPT_BYTES = 64 << 20  # of all of them together


class ConversationStore:
    """The latest conversations, by the ids of their responses; the least recently used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._nbytes = 0

    def get(self, response_id: str | None) -> Sequence[Json]:
        """Raises FieldError: it is not kept, or not any more."""
        if response_id is None:
            return ()
        if response_id not in self._kept:
            raise FieldError(
                "previous_response_id names a response that is not kept here.",
                field="previous_response_id",
                why=f"The latest {KEPT_RESPONSES} are kept until the server ends, but for those with store false.",
                fix="Send the whole conversation as input.",
            )
        self._kept.move_to_end(response_id)
        messages: list[Json] = orjson.loads(self._kept[response_id])
        return messages

    def add(self, response_id: str, messages: Sequence[Json]) -> None:
        self._kept[response_id] = kept = orjson.dumps(list(messages))
        self._nbytes += len(kept)
        while len(self._kept) > KEPT_RESPONSES or self._nbytes > KEPT_BYTES:
            self._nbytes -= len(self._kept.popitem(last=False)[1])


def responses_routes(service: Service) -> APIRouter:
    router = APIRouter()
    form = ChatFormat.of(service.backend, service.config)
    store = ConversationStore()

    def keep(request: ResponsesRequest, earlier: Sequence[Json], writer: ResponseWriter) -> None:
        if request.store is not False:
            said = messages_of([Item.model_validate(item) for item in writer.output])
            store.add(writer.id, [*earlier, *messages_of(request.input), *said])

    async def kept_stream(
        events: AsyncGenerator[bytes, None], request: ResponsesRequest, earlier: Sequence[Json], writer: ResponseWriter
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for event in events:
                if event.startswith((b"event: response.completed", b"event: response.incomplete")):
                    keep(request, earlier, writer)  # before the client may ask for it
                yield event

    @router.post("/v1/responses", summary="Answer a conversation (OpenAI's Responses API)")
    async def create_response(request: ResponsesRequest, http: Request) -> Response:
        earlier = store.get(request.previous_response_id)
        chat = await prepare_chat(service, form, to_chat(request, earlier))
        writer = ResponseWriter(request, chat, service.model_name)
        answer = steps(chat, service.answer(chat.jobs, http.scope[ARRIVED]))
        if not request.stream:
            whole = await while_connected(http.receive, writer.whole(answer))
            keep(request, earlier, writer)
            return Response(orjson.dumps(whole), media_type="application/json")
        first = await while_connected(http.receive, anext(answer))
        events = writer.stream(first, answer, http.scope)
        return EventStream(kept_stream(events, request, earlier, writer))

    return router
