"""DeepSeek V3 and R1: a type, a name, and arguments in a fence of Markdown; since V3.1 a name and arguments."""

from __future__ import annotations

from rowspan.text.chat_formats.deltas import Steps, Text
from rowspan.text.chat_formats.json_calls import read_arguments
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
MARKERS = (CALLS, CALLS_END, CALL, CALL_END, SEPARATOR)


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    while opening := (yield from reader.tell_until(Text, CALLS, CALL)):
        reader.begin_call(opening)
        yield from reader.skip_space()
        if opening == CALLS and not (yield from reader.reads(CALL)):
            yield reader.break_call("there is none")
            continue
        while True:
            if problem := (yield from _read_call(reader)):
                yield reader.break_call(problem)
                break
            yield from reader.skip_space()
            reader.begin_call()
            if not (yield from reader.reads(CALL)):
                reader.end_call()
                yield from reader.reads(CALLS_END)
                break
        yield from reader.skip_space()


def _read_call(reader: Reader) -> Steps[str]:
    name, end = yield from reader.until(SEPARATOR)
    if end is None:
        return "it has no name"
    fenced = name.strip() == "function"
    if fenced:
        name, _ = yield from reader.until("\n")
        yield from reader.skip_space()
        yield from reader.reads("```json", "```")
    if problem := (yield from read_arguments(reader, name.strip())):
        return problem
    yield from reader.skip_space()
    if fenced:
        yield from reader.reads("```")
    yield from reader.skip_space()
    yield from reader.reads(CALL_END)
    return ""


DEEPSEEK_V3 = ToolFormat(
    "deepseek_v3",
    MARKERS,
    parse,
    WrittenCalls(f"{CALL}function{SEPARATOR}", "\n```json\n", f"\n```{CALL_END}", CALLS, "\n", CALLS_END),
)
DEEPSEEK_V31 = ToolFormat("deepseek_v31", MARKERS, parse, WrittenCalls(CALL, SEPARATOR, CALL_END, CALLS, "", CALLS_END))
