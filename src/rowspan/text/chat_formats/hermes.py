"""Hermes 2 and 3, Qwen 2.5 and 3, and many others: JSON objects between <tool_call> and </tool_call>."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_call
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

OPENING, CLOSING = "<tool_call>", "</tool_call>"


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while (yield from reader.tell_until(Text, OPENING)):
        reader.begin_call(OPENING)
        if problem := (yield from read_call(reader)):
            yield reader.break_call(problem)
            continue
        yield from reader.skip_space()
        yield from reader.reads(CLOSING)
        yield from reader.skip_space()


HERMES = ToolFormat(
    "hermes",
    (OPENING, CLOSING),
    parse,
    WrittenCalls(f'{OPENING}\n{{"name": "', '", "arguments": ', f"}}\n{CLOSING}"),
)
