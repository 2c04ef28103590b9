"""Models that were not trained on a format of calls: an answer that is one JSON object, or a list of them, which name
functions that are there.
"""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_call_list
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

FENCES = ("```json", "```tool_call", "```")


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    yield from reader.skip_space()
    yield from read_unmarked_calls(reader, tools)
    yield from reader.tell_until(Text)


def read_unmarked_calls(reader: Reader, tools: Tools) -> Steps[None]:
    """Read calls in JSON, in a fence of Markdown or not. What are none stays unread, or is yielded as text."""
    if not (yield from reader.await_characters(1)) or reader.rest[0] not in "{[`":
        return
    reader.begin_call()
    fenced = yield from reader.reads(*FENCES)
    if problem := (yield from read_call_list(reader, known=tools)):
        broken = reader.break_call(problem)
        yield broken if broken.text != broken.untold else Text(broken.text)  # an answer in JSON is no broken call
        return
    yield from reader.skip_space()
    if fenced:
        yield from reader.reads("```")
        yield from reader.skip_space()


GENERIC_JSON = ToolFormat("json", (), parse, WrittenCalls('{"name": "', '", "arguments": ', "}", "[", ", ", "]"))
