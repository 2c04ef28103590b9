"""Cohere's Command R7B and A: a list of calls in JSON in <|START_ACTION|>, and text in <|START_RESPONSE|>."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_call_list
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

ACTION, ACTION_END = "<|START_ACTION|>", "<|END_ACTION|>"
AROUND_TEXT = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while marker := (yield from reader.tell_until(Text, ACTION, *AROUND_TEXT)):
        if marker == ACTION:
            reader.begin_call(ACTION)
            problem = yield from read_call_list(reader, name_keys=("tool_name", "name"))
            if problem:
                yield reader.break_call(problem)
                continue
            yield from reader.skip_space()
            yield from reader.reads(ACTION_END)
        yield from reader.skip_space()


COHERE = ToolFormat(
    "cohere",
    (ACTION, ACTION_END, *AROUND_TEXT),
    parse,
    WrittenCalls('{"tool_name": "', '", "parameters": ', "}", f"{ACTION}[", ", ", f"]{ACTION_END}"),
    always=True,
)
