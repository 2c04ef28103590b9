"""Writes answers in the form of the Responses API: items, whole or as events of a stream."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Scope

from rowspan.backends.protocol import FinishReason, Piece
from rowspan.server.chat_turn import Step
from rowspan.server.error_replies import ERROR_CODE, code_of, describe
from rowspan.server.openai.chat import PreparedChat
from rowspan.server.responses.schema import ResponsesRequest
from rowspan.text.chat_formats.deltas import (
    BrokenCall,
    CallArguments,
    CallEnd,
    CallStart,
    Delta,
    Reasoning,
    Text,
)

Json = dict[str, Any]
Event = tuple[str, Json]
log = logging.getLogger(__name__)


@dataclass
class ResponseWriter:
    """The answer to one request."""

    request: ResponsesRequest
    chat: PreparedChat
    model: str
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[Json] = field(default_factory=list)
    _is_open: bool = False  # the last item
    _number: int = 0  # of events

    async def whole(self, answer: AsyncGenerator[Step, None]) -> Json:
        last: Piece | None = None
        async for step in answer:
            for _ in self._events(step.deltas):
                pass
            last = step.piece
        for _ in self._end():
            pass
        assert last is not None, "an answer has a last piece"
        return self._response(last)

    async def stream(self, first: Step, rest: AsyncGenerator[Step, None], scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events. An error in the middle becomes the last one, and is noted in the scope."""
        started = self._response(None)
        yield self._line("response.created", {"response": started})
        yield self._line("response.in_progress", {"response": started})
        last = first.piece
        try:
            for name, data in self._events(first.deltas):
                yield self._line(name, data)
            async with aclosing(rest):
                async for step in rest:
                    for name, data in self._events(step.deltas):
                        yield self._line(name, data)
                    last = step.piece
        except Exception as error:
            scope[ERROR_CODE] = code_of(error)
            told = orjson.loads(describe(error)[1])["error"]
            yield self._line("error", {"code": told["code"], "message": told["message"], "param": told["param"]})
            return
        for name, data in self._end():
            yield self._line(name, data)
        response = self._response(last)
        yield self._line(f"response.{response['status']}", {"response": response})

    def _events(self, deltas: list[Delta]) -> Iterator[Event]:
        for delta in deltas:
            match delta:
                case Text(text):
                    yield from self._add("message", text)
                case Reasoning(text):
                    yield from self._add("reasoning", text)
                case CallStart(name, call_id):
                    call = {"call_id": call_id or f"call_{uuid.uuid4().hex[:24]}", "name": name, "arguments": ""}
                    yield from self._begin("function_call", "fc", call)
                case CallArguments(arguments):
                    self.output[-1]["arguments"] += arguments
                    yield "response.function_call_arguments.delta", {**self._place(), "delta": arguments}
                case BrokenCall(_, untold, reason):
                    log.warning("A tool call does not parse, and is sent as text: %s", reason)
                    yield from self._add("message", untold)
                case CallEnd():
                    yield from self._end()

    def _add(self, kind: str, text: str) -> Iterator[Event]:
        """Add text to the last item if it is of this kind, or to a new one."""
        if not text:
            return
        part_type, name = PARTS[kind]
        if not self._is_open or self.output[-1]["type"] != kind:
            part: Json = {"type": part_type, "text": ""} | ({"annotations": []} if kind == "message" else {})
            own: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
            yield from self._begin(kind, "msg" if kind == "message" else "rs", own | {"content": []})
            self.output[-1]["content"].append(part)
            yield "response.content_part.added", {**self._place(), "content_index": 0, "part": dict(part)}
        self.output[-1]["content"][0]["text"] += text
        yield f"response.{name}.delta", {**self._place(), "content_index": 0, "delta": text, "logprobs": []}

    def _begin(self, kind: str, prefix: str, fields: Json) -> Iterator[Event]:
        yield from self._end()
        item = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", **fields}
        self.output.append(item)
        self._is_open = True
        place = len(self.output) - 1
        yield "response.output_item.added", {"output_index": place, "item": orjson.loads(orjson.dumps(item))}

    def _end(self) -> Iterator[Event]:
        if not self._is_open:
            return
        self._is_open = False
        item = self.output[-1]
        item["status"] = "completed"
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", {**self._place(), **done}
        else:
            part = item["content"][0]
            name = PARTS[item["type"]][1]
            yield f"response.{name}.done", {**self._place(), "content_index": 0, "text": part["text"], "logprobs": []}
            yield "response.content_part.done", {**self._place(), "content_index": 0, "part": part}
        yield "response.output_item.done", {"output_index": len(self.output) - 1, "item": item}

    def _place(self) -> Json:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _response(self, last: Piece | None) -> Json:
        """The response as it is; last: the answer's last piece, None before it."""
        request = self.request
        is_cut = last is not None and last.finish == FinishReason.LENGTH
        text = request.text.model_dump(by_alias=True, exclude_none=True) if request.text else {}
        tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
        choice = request.tool_choice
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "in_progress" if last is None else "incomplete" if is_cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self.model,
            "output": [] if last is None else self.output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "text": {"format": {"type": "text"}} | text,
            "tool_choice": "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump(),
            "tools": tools,
            "metadata": request.metadata or {},
            "store": request.store is not False,
            "usage": None if last is None else self._usage(last),
        }

    def _usage(self, last: Piece) -> Json:
        return {
            "input_tokens": self.chat.prompt_tokens,
            "input_tokens_details": {"cached_tokens": last.cached},
            "output_tokens": last.generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.chat.prompt_tokens + last.generated,
        }

    def _line(self, name: str, data: Json) -> bytes:
        body = {"type": name, "sequence_number": self._number, **data}
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"


PARTS = {"message": ("output_text", "output_text"), "reasoning": ("reasoning_text", "reasoning_text")}
"""Of each kind of item that has text: the type of its part, and the word in the names of its events."""
