"""Turns a request of Anthropic's API into one of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rowspan.server.anthropic.schema import Block, Content, CountRequest, MessageParam, MessagesRequest, ToolParam
from rowspan.server.chat_turn import chat_request
from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import ChatRequest

Json = dict[str, Any]
FOREIGN = "claude"  # names that clients send for their own models: the served one answers
DROPPED = ("redacted_thinking",)  # what only Anthropic's own models can read


def to_chat(request: CountRequest, model: str) -> ChatRequest:
    """The same request for `rowspan.server.openai.chat.prepare_chat`. model: the name of the served model.

    Raises:
        FieldError: a part of a message, or a tool, is of a kind that cannot be honoured.
    """
    fields: Json = {
        "model": model if request.model.startswith(FOREIGN) else request.model,
        "messages": [*_system(request), *(one for message in request.messages for one in _messages(message))],
        "tools": [_tool(tool) for tool in request.tools] if request.tools else None,
        **_tool_choice(request),
    }
    if request.thinking is not None:
        fields["enable_thinking"] = request.thinking.type != "disabled"
    if isinstance(request, MessagesRequest):
        fields |= {
            "max_tokens": request.max_tokens,
            "stop": request.stop_sequences,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "response_format": _response_format(request),
        }
        if request.output_config is not None:
            fields["reasoning_effort"] = request.output_config.effort
    return chat_request(fields)


def _response_format(request: MessagesRequest) -> Json | None:
    config = request.output_config
    wanted = request.output_format or (config.format if config else None)
    return None if wanted is None else {"type": "json_schema", "json_schema": {"schema": wanted.schema_}}


def _system(request: CountRequest) -> Iterator[Json]:
    if request.system:
        yield {"role": "system", "content": _text(request.system, "system")}


def _text(content: Content, field: str) -> str:
    """Texts of a message that can have nothing else."""
    if isinstance(content, str):
        return content
    texts = []
    for block in content:
        if block.type != "text" or block.text is None:
            raise _unsupported(block.type, field)
        texts.append(block.text)
    return "\n\n".join(texts)


def _messages(message: MessageParam) -> Iterator[Json]:
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
    elif message.role == "assistant":
        yield _assistant(message.content)
    elif message.role == "system":
        yield {"role": "system", "content": _text(message.content, "messages")}
    else:
        yield from _user(message.content)


def _assistant(blocks: list[Block]) -> Json:
    texts, thoughts, calls = list[str](), list[str](), list[Json]()
    for block in blocks:
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            if not block.name:
                raise FieldError("A tool_use block has no name.", field="messages")
            function = {"name": block.name, "arguments": json.dumps(block.input or {}, ensure_ascii=False)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type not in DROPPED:
            raise _unsupported(block.type, "messages")
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _user(blocks: list[Block]) -> Iterator[Json]:
    """Results of calls are messages of their own, before what the user says with them."""
    texts = []
    for block in blocks:
        if block.type == "tool_result":
            result = _text(block.content or "", "messages")
            yield {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": result}
        elif block.type == "text":
            texts.append(block.text or "")
        else:
            raise _unsupported(block.type, "messages")
    if texts:
        yield {"role": "user", "content": "\n\n".join(texts)}


def _tool(tool: ToolParam) -> Json:
    if tool.type not in (None, "custom"):
        raise FieldError(
            f"The tool {tool.name} is of the type {tool.type[:60]}, which this server does not have.",
            field="tools",
            why="Only tools that the client runs itself are supported.",
            fix="Leave it out.",
        )
    function: Json = {"name": tool.name, "parameters": tool.input_schema or {}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(request: CountRequest) -> Json:
    choice = request.tool_choice
    if choice is None:
        return {}
    fields: Json = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    if choice.type == "tool":
        if choice.name is None:
            raise FieldError("tool_choice names no tool.", field="tool_choice", fix='Send its "name".')
        return {**fields, "tool_choice": {"type": "function", "function": {"name": choice.name}}}
    return {**fields, "tool_choice": {"any": "required"}.get(choice.type, choice.type)}


def _unsupported(kind: str, field: str) -> FieldError:
    return FieldError(
        f"Parts of messages of the type {kind[:60]} are not supported.",
        field=field,
        why="This server's model reads text.",
        fix="Send text.",
    )
