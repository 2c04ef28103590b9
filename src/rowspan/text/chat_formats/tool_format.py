"""What a format of tool calls is."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.text.chat_formats.deltas import Steps
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.grammar import Thought

Tools = Mapping[str, Mapping[str, Any]]
"""The schema of each function's parameters, by the function's name."""


def openai_id(name: str, place: int) -> str:
    """An identifier for a call, as OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class WrittenCalls:
    """How calls with arguments in JSON are written: opening, call, separator, call, …, closing. A call is its name
    between `before` and `between`, its arguments, and `after`.

    numbered: a colon and digits stand after the name: the call's place.
    """

    before: str
    between: str
    after: str
    opening: str = ""
    separator: str = "\n"
    closing: str = ""
    numbered: bool = False
    single: bool = False  # it has one call at most

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls as a model would write them. Args: calls: names and arguments in JSON."""
        written = [
            f"{self.before}{name}{f':{place}' if self.numbered else ''}{self.between}{arguments}{self.after}"
            for place, (name, arguments) in enumerate(calls)
        ]
        return f"{self.opening}{self.separator.join(written)}{self.closing}"


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models calls tools.

    markers: texts that the parser looks for, and that may be special tokens: these are part of the text, then.
    parse: reads an answer's text and calls, until its end.
    written: how calls are written, if their arguments are JSON; None: a grammar cannot constrain them, in this format.
    thought: how reasoning is written, if the format says that, too.
    new_id: an identifier for a call to a function, by its place among the calls.
    always: it also says which parts are text and which are reasoning, so that answers without tools need it, too.
    keeps_id: whether the family's templates take an identifier that another format made.
    """

    name: str
    markers: tuple[str, ...]
    parse: Callable[[Reader, Tools], Steps[None]]
    written: WrittenCalls | None = None
    always: bool = False
    thought: Thought | None = None
    new_id: Callable[[str, int], str] = openai_id
    keeps_id: Callable[[str], bool] = lambda call_id: True
