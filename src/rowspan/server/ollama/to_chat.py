"""Turns requests of Ollama's API into those of OpenAI's."""

from __future__ import annotations

import json
from typing import Any

from rowspan.server.chat_turn import chat_request
from rowspan.server.error_replies import FieldError
from rowspan.server.ollama.schema import OllamaChatRequest, OllamaGenerateRequest, OllamaMessage, OllamaRequest, Options
from rowspan.server.openai.schema import ChatRequest

Json = dict[str, Any]
AS_THEY_ARE = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"),
    *("repeat_last_n", "typical_p", "mirostat", "seed", "stop"),
)


def chat_of(request: OllamaChatRequest) -> ChatRequest:
    """Raises FieldError: something cannot be honoured."""
    messages = request.messages or []
    ids: list[str] = []
    fields = _common(request) | {"messages": [_message(message, ids) for message in messages]}
    if request.tools:
        fields["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools]
    return chat_request(fields)


def chat_of_prompt(request: OllamaGenerateRequest) -> ChatRequest:
    """A prompt as the only message of a conversation. Raises FieldError: something cannot be honoured."""
    _refuse(request)
    system = [{"role": "system", "content": request.system}] if request.system else []
    messages = [*system, {"role": "user", "content": request.prompt}]
    return chat_request(_common(request) | {"messages": messages})


def sampling_fields(options: Options) -> Json:
    """Fields of OpenAI's API, and of those that other servers add to it."""
    limit = options.num_predict if options.num_predict is not None and options.num_predict > 0 else None
    return {"max_tokens": limit} | {name: getattr(options, name) for name in AS_THEY_ARE}


def _common(request: OllamaRequest) -> Json:
    fields: Json = {"model": without_tag(request.model), **sampling_fields(request.options or Options())}
    if isinstance(request.format, dict):
        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": request.format}}
    elif request.format:
        fields["response_format"] = {"type": "json_object"}
    if isinstance(request.think, bool):
        fields["enable_thinking"] = request.think
    elif request.think:
        fields["reasoning_effort"] = request.think
    return fields


def without_tag(model: str) -> str:
    """A model's name as OpenAI's API lists it: Ollama's clients add the tag `latest` to names without one."""
    return model.removesuffix(":latest")


def _message(message: OllamaMessage, ids: list[str]) -> Json:
    """A message in OpenAI's form. Calls have no identifiers here: results belong to them in their order.

    Args:
        ids: of calls that have no result yet; changed.
    """
    if message.images:
        raise FieldError(
            "Images are not supported.", field="messages", why="This server's model reads text.", fix="Send text."
        )
    changed: Json = {"role": message.role, "content": message.content or ""}
    if message.role == "tool":
        changed["tool_call_id"] = message.tool_call_id or (ids.pop(0) if ids else "")
    if message.thinking:
        changed["reasoning_content"] = message.thinking
    if message.tool_calls:
        calls = []
        ids.clear()
        for place, call in enumerate(message.tool_calls):
            ids.append(call.id or f"call_{place}")
            arguments = json.dumps(call.function.arguments or {}, ensure_ascii=False)
            function = {"name": call.function.name, "arguments": arguments}
            calls.append({"id": ids[-1], "type": "function", "function": function})
        changed["tool_calls"] = calls
    return changed


def _refuse(request: OllamaGenerateRequest) -> None:
    for field in ("suffix", "template", "images", "context"):
        if getattr(request, field):
            raise FieldError(
                f"The field {field} is not supported.",
                field=field,
                why="Ignoring it would silently change the answer.",
                fix="Leave it out.",
            )
