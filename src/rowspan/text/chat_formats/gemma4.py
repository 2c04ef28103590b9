"""Gemma 4 and FunctionGemma: call:name{key:value}, where texts stand between special quotes, and keys have none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

from rowspan.text.chat_formats.deltas import CallArguments, CallEnd, CallStart, Steps, Text
from rowspan.text.chat_formats.json_calls import wrong_arguments
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

CALL = re.compile(r"\s*call:([\w.\-]+)\s*(\{[\s\S]*\})\s*")


def _parse(reader: Reader, tools: Tools, opening: str, closing: str, quote: str) -> Steps[None]:
    to_json = _converter(quote)
    while (yield from reader.tell_until(Text, opening)):
        reader.begin_call(opening)
        body, _ = yield from reader.until(closing)
        call = CALL.fullmatch(body)
        arguments = to_json(call[2]) if call else ""
        if call is None or (problem := wrong_arguments(arguments)):
            yield reader.break_call("it is no call" if call is None else problem)
            continue
        yield CallStart(call[1])
        yield CallArguments(arguments)
        yield CallEnd()
        reader.end_call()
        yield from reader.skip_space()


def _converter(quote: str) -> Callable[[str], str]:
    """Makes what turns arguments into JSON."""
    text = re.escape(quote)
    parts = re.compile(rf"{text}(?P<text>[\s\S]*?){text}|(?P<key>[A-Za-z_][\w.\-]*)(?=\s*:)")

    def converted(found: re.Match[str]) -> str:
        return json.dumps(found["key"] if found["text"] is None else found["text"], ensure_ascii=False)

    return lambda arguments: parts.sub(converted, arguments)


def _format(name: str, opening: str, closing: str, quote: str) -> ToolFormat:
    return ToolFormat(name, (opening, closing, quote), partial(_parse, opening=opening, closing=closing, quote=quote))


GEMMA4 = _format("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _format("functiongemma", "<start_function_call>", "<end_function_call>", "<escape>")
