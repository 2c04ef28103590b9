"""Reads calls in Python's form: f(a=1, b="x"), alone or several in brackets."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any

from rowspan.text.chat_formats.deltas import CallArguments, CallEnd, CallStart, Steps
from rowspan.text.chat_formats.reader import Reader

NAMES = {"true": True, "false": False, "null": None}  # JSON's words, which models mix in
MOST_DEEP = 50  # brackets within each other: Python's own parser takes some more


def read_python_calls(reader: Reader, *, known: Collection[str] | None = None) -> Steps[str]:
    """Read calls; the first has begun. Args: known: names that a function may have; None: any.

    Returns:
        What is wrong with them; empty if they are right, and have ended.
    """
    yield from reader.skip_space()
    listed = yield from reader.reads("[")
    while True:
        yield from reader.skip_space()
        if problem := (yield from _read_call(reader, known)):
            return problem
        yield from reader.skip_space()
        reader.begin_call()
        if not listed or not (yield from reader.reads(",")):
            if listed:
                yield from reader.reads("]")  # a model that forgets it has called all the same
            reader.end_call()
            return ""


def _read_call(reader: Reader, known: Collection[str] | None) -> Steps[str]:
    name = ""
    while (yield from reader.await_characters(1)) and re.match(r"[\w.]", reader.rest):
        name += reader.take(1)
    if not name or (known is not None and name not in known):
        return "there is no such function"
    if not (yield from reader.reads("(")):
        return "it is no call"
    inside = yield from _until_closed(reader)
    if inside is None:
        return "its arguments do not end"
    try:
        arguments = json.dumps(_arguments(inside), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        return f"its arguments are no Python ({error})"
    reader.tell_call()
    yield CallStart(name)
    yield CallArguments(arguments)
    reader.end_call()
    yield CallEnd()
    return ""


def _until_closed(reader: Reader) -> Steps[str | None]:
    """Read up to the bracket that closes a call, and it. None: it never comes, or brackets are too deep."""
    read, depth, quote, escaped = "", 1, "", False
    while (yield from reader.await_characters(1)):
        character = reader.take(1)
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
            if depth > MOST_DEEP:
                return None
        elif character in ")]}":
            depth -= 1
            if not depth:
                return read
        read += character
    return None


def _arguments(inside: str) -> dict[str, Any]:
    call = ast.parse(f"f({inside}\n)", mode="eval").body
    if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
        raise ValueError("they have no names")
    return {str(word.arg): _value(word.value) for word in call.keywords}


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Name(name) if name in NAMES:
            return NAMES[name]
        case ast.List(items) | ast.Tuple(items):
            return [_value(item) for item in items]
        case ast.Dict(keys, values):
            if any(not isinstance(key, ast.Constant) for key in keys):
                raise ValueError("a key is no constant")
            named = zip(keys, values, strict=True)
            return {str(key.value): _value(value) for key, value in named if isinstance(key, ast.Constant)}
        case _:
            value = ast.literal_eval(node)
            if not isinstance(value, (str, int, float, bool, type(None))):
                raise ValueError(f"{type(value).__name__} is not in JSON")
            return value
