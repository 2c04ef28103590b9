"""Turns a request of the Responses API into one for chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowspan.server.chat_turn import chat_request
from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import ChatRequest
from rowspan.server.responses.schema import ContentPart, Item, ResponsesRequest, ResponseTool

Json = dict[str, Any]
TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text", "refusal")


def to_chat(request: ResponsesRequest, earlier: Sequence[Json]) -> ChatRequest:
    """The same request for `rowspan.server.openai.chat.prepare_chat`. earlier: the conversation that it continues.

    Raises:
        FieldError: an item or a tool is of a kind that cannot be honoured.
    """
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    choice = request.tool_choice
    fields: Json = {
        "model": request.model,
        "messages": [*system, *earlier, *messages_of(request.input)],
        "tools": [_tool(tool) for tool in request.tools] if request.tools else None,
        "tool_choice": choice if choice is None or isinstance(choice, str) else _function({"name": choice.name}),
        "parallel_tool_calls": request.parallel_tool_calls,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_output_tokens,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": _format(request),
    }
    return chat_request(fields)


def messages_of(items: str | Sequence[Item]) -> list[Json]:
    """A conversation's part as messages: calls that follow one another belong to one message."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    for item in items:
        kind = item.type or "message"
        if kind == "message":
            messages.append({"role": item.role or "user", "content": _text(item.content)})
        elif kind == "reasoning":
            messages.append({"role": "assistant", "content": "", "reasoning_content": _text(item.content)})
        elif kind == "function_call":
            call = _function({"name": item.name or "", "arguments": item.arguments or "{}"}) | {"id": item.call_id}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.call_id or "", "content": _text(item.output)})
        else:
            raise _unsupported(f"Items of the type {kind[:60]}")
    return _joined(messages)


def _joined(messages: list[Json]) -> list[Json]:
    """Reasoning is part of what the assistant says next."""
    joined: list[Json] = []
    for message in messages:
        last = joined[-1] if joined else {}
        if message["role"] == "assistant" and last.get("role") == "assistant" and not last.get("content"):
            joined[-1] = {**last, **{key: value for key, value in message.items() if value}}
        else:
            joined.append(message)
    return joined


def _text(content: str | Sequence[ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in TEXTS:
            raise _unsupported(f"Parts of the type {part.type[:60]}")
    return "".join(part.text or "" for part in content)


def _tool(tool: ResponseTool) -> Json:
    if tool.type != "function" or tool.name is None:
        raise FieldError(
            f"Tools of the type {tool.type[:60]} are not supported.",
            field="tools",
            why="Only functions that the client runs itself are.",
            fix="Leave it out.",
        )
    fields = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return _function({name: value for name, value in fields.items() if value is not None})


def _function(function: Json) -> Json:
    return {"type": "function", "function": function}


def _format(request: ResponsesRequest) -> Json | None:
    wanted = request.text.format if request.text else None
    if wanted is None or wanted.type != "json_schema":
        return None if wanted is None else {"type": wanted.type}
    schema = {"name": wanted.name or "answer", "schema": wanted.schema_, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _unsupported(what: str) -> FieldError:
    return FieldError(
        f"{what} are not supported.", field="input", why="This server's model reads text and calls.", fix="Send text."
    )
