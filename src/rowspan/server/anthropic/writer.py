"""Writes answers in the form of Anthropic's Messages API: blocks of content, whole or as events of a stream."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic_core import from_json
from starlette.types import Scope

from rowspan.backends.protocol import FinishReason, Piece
from rowspan.server.chat_turn import Step
from rowspan.server.connection import writable
from rowspan.server.error_replies import ERROR_CODE, code_of, describe
from rowspan.server.openai.chat import PreparedChat
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
log = logging.getLogger(__name__)


@dataclass
class MessageWriter:
    """The answer to one request.

    path: of the request, which decides the form of errors.
    """

    model: str
    chat: PreparedChat
    wants_thinking: bool
    path: str
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex[:24]}")
    _blocks: list[Json] = field(default_factory=list)
    _is_open: bool = False  # the last block

    async def whole(self, answer: AsyncGenerator[Step, None]) -> Json:
        """The whole message."""
        last: Piece | None = None
        async for step in answer:
            for _ in self._events(step.deltas):
                pass
            last = step.piece
        assert last is not None, "an answer has a last piece"
        for block in self._blocks:
            if block["type"] == "tool_use":
                block["input"] = input_of(block["input"])
        message = self._message(self._usage(last))
        stop_reason, stop_sequence = self._stopped(last)
        return {**message, "content": self._blocks, "stop_reason": stop_reason, "stop_sequence": stop_sequence}

    async def stream(self, first: Step, rest: AsyncGenerator[Step, None], scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events. An error in the middle becomes the last one, and is noted in the scope."""
        usage = {**self._usage(first.piece), "output_tokens": 0}
        yield _event("message_start", {"message": self._message(usage)})
        yield _event("ping", {})
        last = first.piece
        try:
            for name, data in self._events(first.deltas):
                yield _event(name, data)
            async with aclosing(rest):
                async for step in rest:
                    for name, data in self._events(step.deltas):
                        yield _event(name, data)
                    last = step.piece
        except Exception as error:
            scope[ERROR_CODE] = code_of(error)
            yield b"event: error\ndata: " + describe(error, self.path)[1] + b"\n\n"
            return
        if self._is_open:
            yield _event("content_block_stop", {"index": len(self._blocks) - 1})
        stop_reason, stop_sequence = self._stopped(last)
        change = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        yield _event("message_delta", {"delta": change, "usage": self._usage(last)})
        yield _event("message_stop", {})

    def _events(self, deltas: list[Delta]) -> Iterator[tuple[str, Json]]:
        """The events that deltas make; blocks are kept, too."""
        for delta in deltas:
            match delta:
                case Text(text):
                    yield from self._add("text", "text", "text_delta", text)
                case Reasoning(text):
                    if self.wants_thinking:
                        yield from self._add("thinking", "thinking", "thinking_delta", text)
                case CallStart(name, call_id):
                    yield from self._begin(
                        {"type": "tool_use", "id": _call_id(call_id), "name": name, "input": ""}, {"input": {}}
                    )
                case CallArguments(arguments):
                    yield from self._continue("input", "input_json_delta", "partial_json", arguments)
                case BrokenCall(_, untold, reason):
                    log.warning("A tool call does not parse, and is sent as text: %s", reason)
                    yield from self._add("text", "text", "text_delta", untold)
                case CallEnd():
                    yield from self._end()

    def _add(self, kind: str, key: str, delta: str, text: str) -> Iterator[tuple[str, Json]]:
        """Add text to the last block if it is of this kind, or to a new one."""
        if not text:
            return
        if not self._is_open or self._blocks[-1]["type"] != kind:
            block: Json = {"type": kind, key: ""}
            yield from self._begin(block | ({"signature": ""} if kind == "thinking" else {}), {})
        yield from self._continue(key, delta, key, text)

    def _begin(self, block: Json, shown: Json) -> Iterator[tuple[str, Json]]:
        yield from self._end()
        self._blocks.append(block)
        self._is_open = True
        yield "content_block_start", {"index": len(self._blocks) - 1, "content_block": block | shown}

    def _continue(self, key: str, delta: str, name: str, text: str) -> Iterator[tuple[str, Json]]:
        self._blocks[-1][key] += text
        yield "content_block_delta", {"index": len(self._blocks) - 1, "delta": {"type": delta, name: text}}

    def _end(self) -> Iterator[tuple[str, Json]]:
        if self._is_open:
            self._is_open = False
            yield "content_block_stop", {"index": len(self._blocks) - 1}

    def _message(self, usage: Json) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _usage(self, piece: Piece) -> Json:
        """Tokens found in the cache are not among `input_tokens`."""
        return {
            "input_tokens": self.chat.prompt_tokens - piece.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": piece.cached,
            "output_tokens": piece.generated,
        }

    def _stopped(self, last: Piece) -> tuple[str, str | None]:
        if last.stop is not None:
            return "stop_sequence", last.stop
        if last.finish == FinishReason.LENGTH:
            return "max_tokens", None
        return ("tool_use" if any(block["type"] == "tool_use" for block in self._blocks) else "end_turn"), None


def input_of(arguments: str) -> Any:
    """A call's arguments, as far as they go: max_tokens may have cut them off, which `stop_reason` tells."""
    try:
        told = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        return {}
    return writable(told) if isinstance(told, dict) else {}


def _call_id(given: str | None) -> str:
    return given or f"toolu_{uuid.uuid4().hex[:24]}"


def _event(name: str, data: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **data}) + b"\n\n"
