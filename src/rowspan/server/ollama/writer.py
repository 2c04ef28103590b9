"""Writes answers in the form of Ollama's API: one JSON object, or one a line."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.types import Scope

from rowspan.backends.protocol import Piece
from rowspan.server.chat_turn import Step
from rowspan.server.connection import writable
from rowspan.server.error_replies import ERROR_CODE, code_of, describe
from rowspan.text.chat_formats.deltas import BrokenCall, CallArguments, CallEnd, CallStart, Delta, Reasoning, Text

Json = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass
class Parts:
    """What deltas say: text, reasoning, and calls that are whole."""

    text: str = ""
    thinking: str = ""
    calls: list[Json] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.calls)


def as_message(parts: Parts) -> Json:
    """As /api/chat has it."""
    message: Json = {"role": "assistant", "content": parts.text}
    message |= {"thinking": parts.thinking} if parts.thinking else {}
    return {"message": message | ({"tool_calls": parts.calls} if parts.calls else {})}


def as_response(parts: Parts) -> Json:
    """As /api/generate has it."""
    return {"response": parts.text, **({"thinking": parts.thinking} if parts.thinking else {})}


@dataclass
class OllamaWriter:
    """The answer to one request."""

    model: str
    path: str
    prompt_tokens: int
    arrived: float  # by time.perf_counter()
    form: Callable[[Parts], Json]
    _call: Json | None = None  # that is not whole yet
    _first: float = 0.0  # when the first token came

    async def whole(self, answer: AsyncGenerator[Step, None]) -> Json:
        parts = Parts()
        last: Piece | None = None
        async for step in answer:
            self._first = self._first or time.perf_counter()
            self._add(step.deltas, parts)
            last = step.piece
        assert last is not None, "an answer has a last piece"
        return self._head() | self.form(parts) | self._end(last)

    async def stream(self, first: Step, rest: AsyncGenerator[Step, None], scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield lines. An error in the middle becomes the last one, and is noted in the request's scope."""
        self._first = time.perf_counter()
        step = first
        try:
            while True:
                parts = Parts()
                self._add(step.deltas, parts)
                if parts:
                    yield self._line(self._head() | self.form(parts) | {"done": False})
                if step.piece.finish is not None:
                    break
                step = await anext(rest)
        except Exception as error:
            scope[ERROR_CODE] = code_of(error)
            yield describe(error, self.path)[1] + b"\n"
            return
        finally:
            await rest.aclose()
        yield self._line(self._head() | self.form(Parts()) | self._end(step.piece))

    def _add(self, deltas: list[Delta], parts: Parts) -> None:
        for delta in deltas:
            match delta:
                case Text(text):
                    parts.text += text
                case Reasoning(text):
                    parts.thinking += text
                case CallStart(name, _):
                    self._call = {"name": name, "arguments": ""}
                case CallArguments(arguments) if self._call is not None:
                    self._call["arguments"] += arguments
                case CallEnd() if self._call is not None:
                    arguments = writable(json.loads(self._call["arguments"] or "{}"))
                    parts.calls.append({"function": {"name": self._call["name"], "arguments": arguments}})
                    self._call = None
                case BrokenCall(whole, _, reason):
                    log.warning("A tool call does not parse, and is sent as text: %s", reason)
                    parts.text += whole
                    self._call = None

    def _head(self) -> Json:
        return {"model": self.model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}

    def _end(self, last: Piece) -> Json:
        now = time.perf_counter()
        return {
            "done": True,
            "done_reason": str(last.finish),
            "total_duration": _nanoseconds(now - self.arrived),
            "load_duration": 0,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(self._first - self.arrived),
            "eval_count": last.generated,
            "eval_duration": _nanoseconds(now - self._first),
        }

    def _line(self, data: Json) -> bytes:
        return orjson.dumps(data) + b"\n"


def _nanoseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e9))
