"""Calls of earlier turns, in the form that a chat template expects. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from rowspan.errors import UsageError
from rowspan.text.chat_template import ChatTemplate

NEEDLE = "needle_of_the_arguments"


class Wanted(NamedTuple):
    """How a template wants an assistant's message that consists of calls.

    objects: arguments as an object; else as JSON text.
    null: null as its content; else an empty text.
    """

    objects: bool
    null: bool


def with_fitting_calls(template: ChatTemplate, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with calls as the template wants them. Arguments that are no JSON stay as they are."""
    if not any(message.get("tool_calls") for message in messages):
        return [dict(message) for message in messages]
    wanted = wanted_by(template)
    return [_with_calls(message, wanted) for message in messages]


@lru_cache(16)
def wanted_by(template: ChatTemplate) -> Wanted:
    """What a template shows rightly: an object and null are tried first. JSON in quotes is what templates make of text
    that they expected to be an object, and None what they make of a content that they expected to be a text.
    """

    def shows(arguments: Any, content: str | None) -> bool:
        call = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
        ]
        try:
            rendered = template.render(messages)
        except UsageError:
            return False
        wrong = (f"'{NEEDLE}'", f'\\"{NEEDLE}', *(["None"] if content is None else []))
        return NEEDLE in rendered and not any(word in rendered for word in wrong)

    objects = shows({NEEDLE: 1}, "") or not shows(json.dumps({NEEDLE: 1}), "")
    return Wanted(objects, null=shows({NEEDLE: 1} if objects else json.dumps({NEEDLE: 1}), None))


def _with_calls(message: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    content = message.get("content")
    return {
        **message,
        "content": "" if content is None and not wanted.null else content,
        "tool_calls": [_fitting(call, as_object=wanted.objects) for call in calls],
    }


def _fitting(call: Mapping[str, Any], *, as_object: bool) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return dict(call)
    arguments = function.get("arguments")
    if as_object and isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments or "{}")
    elif not as_object and not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments if arguments is not None else {}}}
