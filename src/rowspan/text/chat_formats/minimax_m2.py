"""MiniMax M2: <invoke name="…"> with its parameters between <parameter name="…"> and </parameter>."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tagged_parameters import ParameterTags, read_tagged_call
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

OPENING, CLOSING, INVOKE = "<minimax:tool_call>", "</minimax:tool_call>", "<invoke name="
TAGS = ParameterTags("<parameter name=", ">", "", "</parameter>", "</invoke>")


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while opening := (yield from reader.tell_until(Text, OPENING)):
        while opening is not None:
            reader.begin_call(opening)
            yield from reader.skip_space()
            if not (yield from reader.reads(INVOKE)):
                yield reader.break_call("it invokes nothing")
                break
            name, _ = yield from reader.until(">")
            if problem := (yield from read_tagged_call(reader, name.strip().strip("\"'"), TAGS, tools)):
                yield reader.break_call(problem)
                break
            yield from reader.skip_space()
            opening = None if (yield from reader.reads(CLOSING)) or not (yield from _goes_on(reader)) else ""
        yield from reader.skip_space()


def _goes_on(reader: Reader) -> Steps[bool]:
    if (yield from reader.reads(INVOKE)):
        reader.put_back(len(INVOKE))
        return True
    return False


MINIMAX_M2 = ToolFormat("minimax_m2", (OPENING, CLOSING), parse)
