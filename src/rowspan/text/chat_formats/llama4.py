"""Llama 4, and Llama 3.2 where it was asked to: a list of calls in Python's form, [f(a=1), g(b="x")]."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.generic_json import read_unmarked_calls
from rowspan.text.chat_formats.python_calls import read_python_calls
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

START, END = "<|python_start|>", "<|python_end|>"


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    yield from reader.skip_space()
    marked = yield from reader.reads(START)
    while True:
        reader.begin_call(marked or "")
        yield from reader.skip_space()
        if marked or ((yield from reader.await_characters(1)) and reader.rest[0] == "["):
            if problem := (yield from read_python_calls(reader, known=None if marked else tools)):
                broken = reader.break_call(problem)
                yield broken if marked else Text(broken.text)
        else:
            reader.end_call()
            yield from read_unmarked_calls(reader, tools)
        yield from reader.skip_space()
        yield from reader.reads(END)
        marked = yield from reader.tell_until(Text, START)
        if not marked:
            return


LLAMA4 = ToolFormat("llama4_pythonic", (START, END), parse)
