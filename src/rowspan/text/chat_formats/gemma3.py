"""Gemma 3, which was not trained on one format: calls in Python's form in a fence of Markdown named tool_code, or in
brackets; or in JSON.
"""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.generic_json import read_unmarked_calls
from rowspan.text.chat_formats.python_calls import read_python_calls
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

FENCES = ("```tool_code", "```python")


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    yield from reader.skip_space()
    if (yield from reader.await_characters(2)) and reader.rest[0] == "[" and reader.rest[1] not in "[{":
        reader.begin_call()
        if problem := (yield from read_python_calls(reader, known=tools)):
            yield Text(reader.break_call(problem).text)
    else:
        yield from _unfenced_json(reader, tools)
    while fence := (yield from reader.tell_until(Text, *FENCES)):
        reader.begin_call(fence)
        if problem := (yield from read_python_calls(reader, known=tools)):
            broken = reader.break_call(problem)
            yield broken if fence == FENCES[0] else Text(broken.text)
            continue
        yield from reader.skip_space()
        yield from reader.reads("```")
        yield from reader.skip_space()


def _unfenced_json(reader: Reader, tools: Tools) -> Steps[None]:
    """Read calls in JSON, unless this is the fence of calls in Python's form."""
    fence = yield from reader.reads(*FENCES)
    if fence:
        reader.put_back(len(fence))
    else:
        yield from read_unmarked_calls(reader, tools)


GEMMA3 = ToolFormat("gemma3", (), parse)
