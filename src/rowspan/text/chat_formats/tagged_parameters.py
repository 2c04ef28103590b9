"""Reads calls whose parameters stand between tags, one by one, each as plain text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.text.chat_formats.deltas import CallArguments, CallEnd, CallStart, Steps
from rowspan.text.chat_formats.json_calls import parsed
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import Tools


@dataclass(frozen=True)
class ParameterTags:
    """What stands around parameters: opening, key, key_end, value_opening, value, value_end; closing ends the call."""

    opening: str
    key_end: str
    value_opening: str
    value_end: str
    closing: str


def read_tagged_call(reader: Reader, name: str, tags: ParameterTags, tools: Tools) -> Steps[str]:
    """Read the parameters of a call whose name has been read. Each is told when it is whole.

    Returns:
        What is wrong with it; empty if it is right, and has ended.
    """
    if not name or any(character in name for character in "<>\n"):
        return "it names no function"
    properties = tools.get(name, {}).get("properties") or {}
    reader.tell_call()
    yield CallStart(name)
    told = 0
    while True:
        yield from reader.skip_space()
        if (yield from reader.reads(tags.closing)):
            break
        if not (yield from reader.reads(tags.opening)):
            return "what follows is no parameter"
        key, end = yield from reader.until(tags.key_end)
        if tags.value_opening:
            yield from reader.skip_space()
            end = end and (yield from reader.reads(tags.value_opening))
        if end is None:
            return "a parameter has no value"
        value, end = yield from reader.until(tags.value_end)
        if end is None:
            return "a parameter does not end"
        reader.tell_call()
        key = key.strip().strip("\"'")
        typed = typed_json(value.removeprefix("\n").removesuffix("\n"), properties.get(key))
        yield CallArguments(f"{', ' if told else '{'}{json.dumps(key, ensure_ascii=False)}: {typed}")
        told += 1
    yield CallArguments("}" if told else "{}")
    reader.end_call()
    yield CallEnd()
    return ""


def typed_json(value: str, schema: Any) -> str:
    """A parameter in JSON: as its schema has it, a text as it is; without one, JSON if it is JSON."""
    types = _types(schema)
    if types == {"string"}:
        return json.dumps(value, ensure_ascii=False)
    words = {"True": "true", "False": "false", "None": "null"}
    text = words.get(value.strip(), value)
    try:
        meant = parsed(text)
    except ValueError:
        return json.dumps(value, ensure_ascii=False)
    if "string" in types and not isinstance(meant, str) and _type(meant) not in types:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(meant, ensure_ascii=False)


def _types(schema: Any) -> set[str]:
    """The types that a schema names; none: any."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    types = {named} if isinstance(named, str) else set(named) if isinstance(named, list) else set()
    for alternative in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        types |= _types(alternative)
    if not types and isinstance(schema.get("enum"), list) and all(isinstance(each, str) for each in schema["enum"]):
        return {"string"}
    return {"integer", *types} if "number" in types else types


def _type(meant: Any) -> str:
    match meant:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"
