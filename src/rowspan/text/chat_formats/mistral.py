"""Mistral: [TOOL_CALLS] and a list of calls in JSON, or, since version 11 of its tokenizer, [TOOL_CALLS] before each
function's name and [ARGS] before its arguments.
"""

from __future__ import annotations

import re
import secrets
import string

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_arguments, read_call_list
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

CALLS, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
ID_LENGTH = 9  # its templates refuse others


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while (yield from reader.tell_until(Text, CALLS)):
        reader.begin_call(CALLS)
        yield from reader.skip_space()
        if not (yield from reader.await_characters(1)):
            problem = "there is none"
        elif reader.rest[0] in "[{":
            problem = yield from read_call_list(reader)
        else:
            problem = yield from _named(reader)
        if problem:
            yield reader.break_call(problem)
        yield from reader.skip_space()


def _named(reader: Reader) -> Steps[str]:
    name, end = yield from reader.until(ARGUMENTS, ID, "{")
    call_id = None
    if end == ID:
        call_id, end = yield from reader.until(ARGUMENTS, "{")
    if end == "{":
        reader.put_back(1)
    return "it has no arguments" if end is None else (yield from read_arguments(reader, name.strip(), call_id))


def new_id(name: str, place: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(ID_LENGTH))


def keeps_id(call_id: str) -> bool:
    return re.fullmatch(f"[a-zA-Z0-9]{{{ID_LENGTH}}}", call_id) is not None


MARKERS = (CALLS, ARGUMENTS, ID)
MISTRAL = ToolFormat(
    "mistral",
    MARKERS,
    parse,
    WrittenCalls('{"name": "', '", "arguments": ', "}", f"{CALLS}[", ", ", "]"),
    new_id=new_id,
    keeps_id=keeps_id,
)
MISTRAL_ARGS = ToolFormat(
    "mistral_args", MARKERS, parse, WrittenCalls(CALLS, ARGUMENTS, "", separator=""), new_id=new_id, keeps_id=keeps_id
)
