"""Formats that are a list of calls in JSON behind a marker: IBM's Granite 3, Microsoft's Phi-4."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_call_list
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls


def _parse(reader: Reader, tools: Tools, openings: tuple[str, ...], closings: tuple[str, ...]) -> Steps[None]:
    while opening := (yield from reader.tell_until(Text, *openings)):
        reader.begin_call(opening)
        if problem := (yield from read_call_list(reader)):
            yield reader.break_call(problem)
            continue
        yield from reader.skip_space()
        yield from reader.reads(*closings)
        yield from reader.skip_space()


def _parser(openings: tuple[str, ...], closings: tuple[str, ...]) -> Callable[[Reader, Tools], Steps[None]]:
    return partial(_parse, openings=openings, closings=closings)


GRANITE = ToolFormat(
    "granite",
    ("<|tool_call|>", "<tool_call>", "</tool_call>"),
    _parser(("<|tool_call|>", "<tool_call>"), ("</tool_call>",)),
    WrittenCalls('{"name": "', '", "arguments": ', "}", "<|tool_call|>[", ", ", "]"),
)
PHI4 = ToolFormat(
    "phi4",
    ("<|tool_call|>", "<|/tool_call|>"),
    _parser(("<|tool_call|>", "functools"), ("<|/tool_call|>",)),
    WrittenCalls('{"name": "', '", "arguments": ', "}", "<|tool_call|>[", ", ", "]<|/tool_call|>"),
)
