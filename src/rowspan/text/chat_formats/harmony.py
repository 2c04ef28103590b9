"""gpt-oss's harmony: messages on channels. The analysis channel is reasoning, a message to functions.name is a call,
all others are text. https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re

from rowspan.text.chat_formats.deltas import Reasoning, Steps, Text
from rowspan.text.chat_formats.json_calls import read_arguments
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools, WrittenCalls
from rowspan.text.grammar import Thought

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
HEADER = re.compile(
    r"\s*(?:assistant)?\s*(?:to=(?P<early>[\w.\-]+))?\s*(?:<\|channel\|>\s*(?P<channel>\w+))?"
    r"\s*(?:to=(?P<late>[\w.\-]+))?\s*(?:(?:<\|constrain\|>)?\s*(?:json|code))?\s*"
)
ENDS = ("<|end|>", "<|return|>", "<|call|>")


def parse(reader: Reader, tools: Tools) -> Steps[None]:
    opening: str | None = ""
    while opening is not None:
        if opening not in (START, CHANNEL):
            opening = ""  # the end of the message before
            if not (yield from _at_header(reader)):
                opening = yield from reader.tell_until(Text, START, CHANNEL, *ENDS)
                continue
        reader.begin_call(opening)
        header, end = yield from reader.until(MESSAGE)
        if end is None:
            yield reader.break_call("a message has no end of its header")
            return
        if not (found := HEADER.fullmatch((opening + header).removeprefix(START))):
            yield reader.break_call("a message's header is none")
            opening = ""
            continue
        called, channel = found["early"] or found["late"], found["channel"]
        if called:
            if problem := (yield from read_arguments(reader, called.removeprefix("functions."))):
                yield reader.break_call(problem)
            yield from reader.skip_space()
            opening = (yield from reader.reads(*ENDS, START)) or ""
        else:
            reader.end_call()
            kind = Reasoning if channel == "analysis" else Text
            opening = yield from reader.tell_until(kind, *ENDS, START)


def _at_header(reader: Reader) -> Steps[bool]:
    """Whether a message's header comes next: the prompt ends with the role, and may be followed by a recipient."""
    for beginning in (START, CHANNEL, " to=", "to="):
        if (yield from reader.reads(beginning)):
            reader.put_back(len(beginning))
            return True
    return False


HARMONY = ToolFormat(
    "openai",
    (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS),
    parse,
    WrittenCalls(f"{CHANNEL}commentary to=functions.", f" {CONSTRAIN}json{MESSAGE}", "", single=True),
    always=True,
    thought=Thought(
        f"{CHANNEL}analysis{MESSAGE}",
        f"{ENDS[0]}{START}assistant",
        begun=False,
        answer=f"{CHANNEL}final{MESSAGE}",
        markers=(START, CHANNEL, MESSAGE, ENDS[0]),
    ),
)
