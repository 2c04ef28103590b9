"""Reads calls that are JSON objects: a function's name, and its arguments."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from rowspan.text.chat_formats.deltas import CallArguments, CallEnd, CallStart, Steps
from rowspan.text.chat_formats.reader import SPACE, Reader

ARGUMENT_KEYS = ("arguments", "parameters")
SCALAR_ENDS = f",}}]{SPACE}"
FIRST = '{["-0123456789tfn'  # what JSON values begin with


def parsed(text: str) -> Any:
    """What JSON text means. Raises ValueError if it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is too deep") from None


def json_value(reader: Reader, *, tell: bool = False) -> Steps[str | None]:
    """Read a JSON value, as its brackets and quotes have it; None: there is none, or it does not end.

    Args:
        tell: yield it as arguments, as it comes.
    """
    yield from reader.skip_space()
    parts: list[str] = []
    scan = _Scan()
    while True:
        part = reader.take(scan.length(reader.rest))
        parts.append(part)
        if tell and part:
            reader.tell_call()
            yield CallArguments(part)
        if scan.ended:
            return "".join(parts)
        if scan.failed:
            return None
        if not (yield from reader.more()):
            return "".join(parts) if scan.is_scalar else None


class _Scan:
    """Where a JSON value ends, told of it piece by piece."""

    def __init__(self) -> None:
        self.ended = self.failed = self.is_scalar = False
        self._depth = 0
        self._in_string = self._escaped = False
        self._begun = False

    def length(self, text: str) -> int:
        """How much of this piece belongs to the value."""
        for place, character in enumerate(text):
            if self.is_scalar:
                if character in SCALAR_ENDS:
                    self.ended = True
                    return place
            elif self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
                self.ended = not self._in_string and not self._depth
            elif not self._begun and character not in FIRST:
                self.failed = True
                return place
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                self.ended = not self._depth
            elif not self._begun:
                self.is_scalar = True
            self._begun = True
            if self.ended:
                return place + 1
        return len(text)


def read_call(
    reader: Reader,
    *,
    known: Collection[str] | None = None,
    name_keys: Sequence[str] = ("name",),
    argument_keys: Sequence[str] = ARGUMENT_KEYS,
) -> Steps[str]:
    """Read an object such as {"name": "f", "arguments": {…}} as a call, which has begun for the reader.

    Args:
        known: names that a function may have; None: any.

    Returns:
        What is wrong with it; empty if it is right, and has ended.
    """
    yield from reader.skip_space()
    if not (yield from reader.reads("{")):
        return "it is no JSON object"
    name, call_id, arguments, told = "", None, "", False
    while not (yield from _reads(reader, "}")):
        key = yield from json_value(reader)
        if key is None or not key.startswith('"') or not (yield from _reads(reader, ":")):
            return "it is no JSON object"
        yield from reader.skip_space()
        is_arguments = key[1:-1] in argument_keys
        if is_arguments and name and not told and reader.rest.startswith("{"):
            yield from _start(reader, name, call_id)
            told = True
            value = yield from json_value(reader, tell=True)
            problem = wrong_arguments(value)
            if problem:
                return problem
        else:
            value = yield from json_value(reader)
            try:
                meant = parsed(value or "")
            except ValueError:
                return "it is no JSON object"
            if key[1:-1] in name_keys and isinstance(meant, str) and not name:
                name = meant
                if not name or (known is not None and name not in known):
                    return "there is no such function"
            elif key == '"id"' and isinstance(meant, str):
                call_id = meant
            elif is_arguments:
                arguments = meant if isinstance(meant, str) else value or ""
                if arguments == "null":
                    arguments = ""
                elif problem := wrong_arguments(arguments):
                    return problem
        if not (yield from _reads(reader, ",")):
            if (yield from _reads(reader, "}")):
                break
            return "it is no JSON object"
    if not name:
        return "it names no function"
    if not told:
        yield from _start(reader, name, call_id)
        yield CallArguments(arguments or "{}")
    reader.end_call()
    yield CallEnd()
    return ""


def read_call_list(
    reader: Reader,
    *,
    known: Collection[str] | None = None,
    name_keys: Sequence[str] = ("name",),
    argument_keys: Sequence[str] = ARGUMENT_KEYS,
) -> Steps[str]:
    """Read a list of calls, or several with a semicolon between; the first has begun. Returns as `read_call` does."""
    listed = yield from _reads(reader, "[")
    if listed and (yield from _reads(reader, "]")):
        return "the list is empty"
    while True:
        problem = yield from read_call(reader, known=known, name_keys=name_keys, argument_keys=argument_keys)
        if problem:
            return problem
        yield from reader.skip_space()
        reader.begin_call()
        if not (yield from reader.reads("," if listed else ";")):
            if listed:
                yield from reader.reads("]")  # a model that forgets it has called all the same
            reader.end_call()
            return ""


def read_arguments(reader: Reader, name: str, call_id: str | None = None) -> Steps[str]:
    """Read an object of arguments for a function whose name has been read. Returns as `read_call` does."""
    yield from reader.skip_space()
    if not name:
        return "it names no function"
    if not reader.rest.startswith("{"):
        return "its arguments are no JSON object"
    yield from _start(reader, name, call_id)
    problem = wrong_arguments((yield from json_value(reader, tell=True)))
    if not problem:
        reader.end_call()
        yield CallEnd()
    return problem


def wrong_arguments(text: str | None) -> str:
    """What is wrong with arguments; empty if they are an object."""
    try:
        return "" if isinstance(parsed(text or ""), dict) else "its arguments are no JSON object"
    except ValueError as error:
        return f"its arguments are no JSON ({error})"


def _start(reader: Reader, name: str, call_id: str | None) -> Steps[None]:
    reader.tell_call()
    yield CallStart(name, call_id)


def _reads(reader: Reader, text: str) -> Steps[bool]:
    yield from reader.skip_space()
    return (yield from reader.reads(text)) is not None
