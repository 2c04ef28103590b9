"""GLM-4.5 and later: a function's name, and pairs of <arg_key> and <arg_value>, in <tool_call>."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tagged_parameters import ParameterTags, read_tagged_call
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

OPENING, CLOSING = "<tool_call>", "</tool_call>"
TAGS = ParameterTags("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", CLOSING)


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while (yield from reader.tell_until(Text, OPENING)):
        reader.begin_call(OPENING)
        yield from reader.skip_space()
        name, end = yield from reader.until("\n", TAGS.opening, CLOSING)
        if end in (TAGS.opening, CLOSING):
            reader.put_back(len(end))
        if problem := (yield from read_tagged_call(reader, name.strip(), TAGS, tools)):
            yield reader.break_call(problem)
            continue
        yield from reader.skip_space()


GLM45 = ToolFormat("glm45", (OPENING, CLOSING, TAGS.opening, TAGS.key_end, TAGS.value_opening, TAGS.value_end), parse)
