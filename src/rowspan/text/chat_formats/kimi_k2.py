"""Kimi K2: a section of calls, each with an identifier that has the function's name in it, functions.name:0."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_arguments
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while opening := (yield from reader.tell_until(Text, SECTION, CALL)):
        reader.begin_call(opening)
        yield from reader.skip_space()
        if opening == SECTION and not (yield from reader.reads(CALL)):
            yield reader.break_call("there is none")
            continue
        while True:
            call_id, end = yield from reader.until(ARGUMENTS)
            call_id = call_id.strip()
            name = call_id.removeprefix("functions.").rpartition(":")[0] or call_id.removeprefix("functions.")
            problem = "it has no arguments" if end is None else (yield from read_arguments(reader, name, call_id))
            if problem:
                yield reader.break_call(problem)
                break
            yield from reader.skip_space()
            yield from reader.reads(CALL_END)
            yield from reader.skip_space()
            reader.begin_call()
            if not (yield from reader.reads(CALL)):
                reader.end_call()
                yield from reader.reads(SECTION_END)
                break
        yield from reader.skip_space()


def new_id(name: str, place: int) -> str:
    return f"functions.{name}:{place}"


KIMI_K2 = ToolFormat(
    "kimi_k2",
    (SECTION, SECTION_END, CALL, ARGUMENTS, CALL_END),
    parse,
    WrittenCalls(f"{CALL}functions.", f"{ARGUMENTS}", CALL_END, SECTION, "", SECTION_END, numbered=True),
    new_id=new_id,
)
