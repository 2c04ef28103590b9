"""Tools and earlier calls, in the form that a chat template expects; as text, if it knows nothing of them. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from rowspan.errors import UsageError
from rowspan.text.chat_formats.generic_json import GENERIC_JSON
from rowspan.text.chat_formats.registry import tool_format
from rowspan.text.chat_formats.tool_format import WrittenCalls
from rowspan.text.chat_template import ChatTemplate

NEEDLE = "needle_of_the_probe"
INTRODUCTION = (
    "You can call functions. To call some, answer with nothing but calls in this form:\n{}\n"
    "The functions are, one a line:\n{}"
)

Message = dict[str, Any]


class Wanted(NamedTuple):
    """What a template shows rightly.

    objects: arguments that are an object; else they are JSON text.
    null: null as the content of a message with calls; else an empty text.
    calls: calls at all.
    results: messages of the role `tool`.
    tools: definitions of tools.
    system: messages of the role `system`.
    """

    objects: bool
    null: bool
    calls: bool
    results: bool
    tools: bool
    system: bool


def fitting(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[Message], list[Message] | None]:
    """Messages and tools as the template wants them. What it does not show becomes text, so that any model can be told
    of tools. Arguments that are no JSON stay as they are.
    """
    fitted = [dict(message) for message in messages]
    if not tools and not any(message.get("tool_calls") or message.get("role") == "tool" for message in fitted):
        return fitted, None
    wanted = wanted_by(template)
    written = tool_format(None, template.source).written or GENERIC_JSON.written
    assert written is not None, "generic JSON is always written"
    fitted = [_with_calls(message, wanted, written) for message in fitted]
    if tools and not wanted.tools:
        functions = "\n".join(json.dumps(tool.get("function"), ensure_ascii=False) for tool in tools)
        told = INTRODUCTION.format(written.write([("function", '{"parameter": "value"}')]), functions)
        return _joined([{"role": "system" if wanted.system else "user", "content": told}, *fitted]), None
    return fitted if wanted.results else _joined(fitted), [dict(tool) for tool in tools] if tools else None


@lru_cache(16)
def wanted_by(template: ChatTemplate) -> Wanted:
    """Find out by probes. An object and null are tried first. JSON in quotes is what templates make of text that they
    expected to be an object, and None what they make of a content that they expected to be a text.
    """
    user: Message = {"role": "user", "content": "hello"}

    def shows(messages: list[Message], *wrong: str, **options: Any) -> bool:
        try:
            rendered = template.render(messages, **options)
        except UsageError:
            return False
        return NEEDLE in rendered and not any(word in rendered for word in wrong)

    def shows_call(arguments: Any, content: str | None) -> bool:
        call = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": arguments}}
        wrong = (f"'{NEEDLE}'", f'\\"{NEEDLE}', *(["None"] if content is None else []))
        return shows([user, {"role": "assistant", "content": content, "tool_calls": [call]}], *wrong)

    objects = shows_call({NEEDLE: 1}, "")
    texts = not objects and shows_call(json.dumps({NEEDLE: 1}), "")
    made_call: Message = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}
    if texts:
        made_call["function"]["arguments"] = "{}"
    result: Message = {"role": "tool", "content": NEEDLE, "tool_call_id": "call00000", "name": "f"}
    function = {"name": NEEDLE, "description": "d", "parameters": {"type": "object", "properties": {}}}
    return Wanted(
        objects=not texts,
        null=shows_call(json.dumps({NEEDLE: 1}) if texts else {NEEDLE: 1}, None),
        calls=objects or texts,
        results=shows([user, {"role": "assistant", "content": "", "tool_calls": [made_call]}, result]),
        tools=shows([user], tools=[{"type": "function", "function": function}]),
        system=shows([{"role": "system", "content": NEEDLE}, user]),
    )


def _with_calls(message: Message, wanted: Wanted, written: WrittenCalls) -> Message:
    calls, content = message.get("tool_calls"), message.get("content")
    if message.get("role") == "tool" and not wanted.results:
        return {"role": "user", "content": f"The function returned:\n{_text(content)}"}
    if not calls:
        return message
    if not wanted.calls:
        functions = [each["function"] for each in calls]
        told = written.write([(each["name"], json.dumps(_object(each), ensure_ascii=False)) for each in functions])
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        return {**rest, "content": f"{_text(content)}{told}"}
    return {
        **message,
        "content": "" if content is None and not wanted.null else content,
        "tool_calls": [_fitting(call, wanted) for call in calls],
    }


def _text(content: Any) -> str:
    """The text of a message's content, which may be in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, Mapping) and part.get("type") == "text")
    return content or ""


def _fitting(call: Mapping[str, Any], wanted: Wanted) -> Message:
    arguments = _object(call["function"])
    if not wanted.objects and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _object(function: Mapping[str, Any]) -> Any:
    """A call's arguments as an object; as the text that they are, if that is no JSON."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            return json.loads(arguments or "{}")
    return {} if arguments is None else arguments


def _joined(messages: list[Message]) -> list[Message]:
    """The messages; neighbours of the role `system` or `user` are one, since many templates want roles to alternate."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else {}
        both = isinstance(message.get("content"), str) and isinstance(last.get("content"), str)
        if both and message.get("role") == last.get("role") and message.get("role") in ("system", "user"):
            joined[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined
