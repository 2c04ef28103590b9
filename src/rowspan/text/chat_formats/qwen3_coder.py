"""Qwen3-Coder and Seed-OSS: <function=name> with its parameters between <parameter=name> and </parameter>."""

from __future__ import annotations

from functools import partial

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tagged_parameters import ParameterTags, read_tagged_call
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

FUNCTION = "<function="
TAGS = ParameterTags("<parameter=", ">", "", "</parameter>", "</function>")


def _parse(reader: Reader, tools: Tools, opening: str, closing: str) -> Steps[None]:
    while begun := (yield from reader.tell_until(Text, opening, FUNCTION)):  # models forget the first
        reader.begin_call(begun)
        yield from reader.skip_space()
        if begun == opening and not (yield from reader.reads(FUNCTION)):
            yield reader.break_call("it has no function")
            continue
        name, _ = yield from reader.until(">")
        if problem := (yield from read_tagged_call(reader, name.strip(), TAGS, tools)):
            yield reader.break_call(problem)
            continue
        yield from reader.skip_space()
        yield from reader.reads(closing)
        yield from reader.skip_space()


def _format(name: str, opening: str, closing: str) -> ToolFormat:
    return ToolFormat(name, (opening, closing), partial(_parse, opening=opening, closing=closing))


QWEN3_CODER = _format("qwen3_coder", "<tool_call>", "</tool_call>")
SEED_OSS = _format("seed_oss", "<seed:tool_call>", "</seed:tool_call>")
