"""Parses one answer as it comes: reasoning, text and calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rowspan.text.chat_formats.deltas import BrokenCall, CallArguments, Delta, Reasoning, Steps, Text
from rowspan.text.chat_formats.reader import Reader
from rowspan.text.chat_formats.tool_format import ToolFormat, Tools

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReasoningTags:
    """What a model writes around its reasoning.

    special: what of it may be special tokens; None: opening and closing are.
    """

    opening: str
    closing: str
    special: tuple[str, ...] | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        return self.special or (self.opening, self.closing)


class OutputParser:
    """Parses one answer. However it is cut into pieces, the deltas together are the same."""

    def __init__(
        self, tool_format: ToolFormat | None, tools: Tools, reasoning: ReasoningTags | None, *, begun: bool = False
    ) -> None:
        """Prepare for one answer.

        Args:
            tool_format: None: there are no calls to look for.
            reasoning: None: there is none, or the format tells it itself.
            begun: the prompt ends within the reasoning.
        """
        self._reader = Reader()
        self._steps = _parse(self._reader, tool_format, tools, reasoning, begun=begun)
        self._done = False

    def push(self, text: str) -> list[Delta]:
        """The deltas that a piece of the answer completes."""
        self._reader.push(text)
        return self._advance()

    def finish(self) -> list[Delta]:
        """The last deltas."""
        self._reader.end()
        return self._advance()

    def _advance(self) -> list[Delta]:
        deltas: list[Delta] = []
        while not self._done:
            try:
                delta = next(self._steps)
            except StopIteration:
                self._done = True
                break
            if delta is None:
                break
            if isinstance(delta, BrokenCall):
                log.warning("A tool call does not parse, and is sent as text: %s.", delta.reason)
            _append(deltas, delta)
        if self._done and (rest := self._reader.take(len(self._reader.rest))):
            _append(deltas, Text(rest))
        return deltas


def _append(deltas: list[Delta], delta: Delta) -> None:
    """Join a delta to the last one, if both are parts of the same."""
    match deltas[-1:], delta:
        case [Text(before)], Text(text):
            deltas[-1] = Text(before + text)
        case [Reasoning(before)], Reasoning(text):
            deltas[-1] = Reasoning(before + text)
        case [CallArguments(before)], CallArguments(text):
            deltas[-1] = CallArguments(before + text)
        case _:
            deltas.append(delta)


def _parse(
    reader: Reader, tool_format: ToolFormat | None, tools: Tools, reasoning: ReasoningTags | None, *, begun: bool
) -> Steps[None]:
    if reasoning is not None:
        if not begun:
            yield from reader.skip_space()
            begun = (yield from reader.reads(reasoning.opening)) is not None
        if begun:
            yield from reader.skip_space()
            yield from reader.tell_until(Reasoning, reasoning.closing)
            yield from reader.skip_space()
    if tool_format is not None:
        yield from tool_format.parse(reader, tools)
    else:
        yield from reader.tell_until(Text)
