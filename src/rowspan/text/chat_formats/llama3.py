"""Llama 3.x: an answer that is a call in JSON, {"name": …, "parameters": {…}}, with or without <|python_tag|> before
it; behind that tag also a call in Python's form.
"""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.generic_json import read_unmarked_calls
from rowspan.text.chat_formats.json_calls import read_call_list
from rowspan.text.chat_formats.python_calls import read_python_calls
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

TAG = "<|python_tag|>"


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    yield from reader.skip_space()
    yield from read_unmarked_calls(reader, tools)
    while (yield from reader.tell_until(Text, TAG)):
        reader.begin_call(TAG)
        yield from reader.skip_space()
        is_json = (yield from reader.await_characters(1)) and reader.rest[0] in "[{"
        problem = yield from (read_call_list(reader) if is_json else read_python_calls(reader))
        if problem:
            yield reader.break_call(problem)


LLAMA3 = ToolFormat(
    "llama3_json",
    (TAG,),
    parse,
    WrittenCalls('{"name": "', '", "parameters": ', "}", separator="; "),
)
