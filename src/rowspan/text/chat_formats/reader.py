"""Reads a model's output as it comes: what parsers of all formats are made of.

Each method decides by the output alone, never by how it was cut into pieces: what is not decided yet is held back.
"""

from __future__ import annotations

from collections.abc import Sequence

from rowspan.text.chat_formats.deltas import BrokenCall, Reasoning, Steps, Text
from rowspan.text.stop import overlap

SPACE = " \t\r\n"


class Reader:
    """The output so far, and how far it has been read."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._call: int | None = None  # where the call that is being read begins
        self._told = 0  # how far the output is in deltas
        self.ended = False

    def push(self, text: str) -> None:
        """Take in more of the output."""
        kept = self._at if self._call is None else self._call
        self._text = self._text[kept:] + text
        self._at -= kept
        self._told -= kept
        self._call = None if self._call is None else 0

    def end(self) -> None:
        """No more output comes."""
        self.ended = True

    @property
    def rest(self) -> str:
        """What has come and is not read."""
        return self._text[self._at :]

    def take(self, n_characters: int) -> str:
        """Read so many characters, which have come."""
        taken = self._text[self._at : self._at + n_characters]
        self._at += len(taken)
        return taken

    def put_back(self, n_characters: int) -> None:
        """Have so many characters read again."""
        self._at -= n_characters

    def more(self) -> Steps[bool]:
        """Wait for more; False: there is no more."""
        if self.ended:
            return False
        yield None
        return True

    def await_characters(self, n_characters: int) -> Steps[bool]:
        """Wait for so many unread characters; False: there are fewer."""
        while len(self._text) - self._at < n_characters:
            if not (yield from self.more()):
                return False
        return True

    def skip_space(self) -> Steps[None]:
        """Read white space."""
        while True:
            rest = self.rest
            self._at += len(rest) - len(rest.lstrip(SPACE))
            if self._at < len(self._text) or not (yield from self.more()):
                return

    def reads(self, *texts: str) -> Steps[str | None]:
        """Read the first of these texts that comes next; None: none of them does, and nothing is read."""
        while True:
            rest = self.rest
            for text in texts:
                if rest.startswith(text):
                    return self.take(len(text))
                if text.startswith(rest) and not self.ended:
                    break  # it may yet
            else:
                return None
            yield from self.more()

    def until(self, *ends: str) -> Steps[tuple[str, str | None]]:
        """Read up to the first of these texts, and it; all that comes if there is none. Returns what is before it, and
        it."""
        while True:
            if found := _first(self._text, ends, self._at):
                start, end = found
                before = self._text[self._at : start]
                self._at = start + len(end)
                return before, end
            if not (yield from self.more()):
                return self.take(len(self.rest)), None

    def tell_until(self, kind: type[Text] | type[Reasoning], *ends: str) -> Steps[str | None]:
        """Yield what comes before the first of these texts, as it comes, and read that; white space just before it is
        dropped. None: it never comes. Several ends must not begin with each other."""
        while True:
            found = _first(self._text, ends, self._at)
            stop = found[0] if found else len(self._text)
            told = self._text[self._at : stop]
            if not found and not self.ended:
                safe = len(told) - max((overlap(told, end) for end in ends), default=0)
                told = told[:safe]
                told = told.rstrip(SPACE) if ends else told
            elif found:
                told = told.rstrip(SPACE)
            if told:
                self._at += len(told)
                self._told = self._at
                yield kind(told)
            if found:
                self._at = self._told = stop + len(found[1])
                return found[1]
            if not (yield from self.more()):
                return None

    def begin_call(self, opening: str = "") -> None:
        """What is read from here on is a call. Args: opening: what of it has been read already."""
        self._call = self._told = self._at - len(opening)

    def tell_call(self) -> None:
        """What has been read of the call is in deltas."""
        self._told = self._at

    def end_call(self) -> None:
        """The call is whole."""
        self._call, self._told = None, self._at

    def break_call(self, reason: str) -> BrokenCall:
        """What has been read since the call began is text."""
        assert self._call is not None, "a call has begun"
        broken = BrokenCall(self._text[self._call : self._at], self._text[self._told : self._at], reason)
        self.end_call()
        return broken


def _first(text: str, ends: Sequence[str], start: int) -> tuple[int, str] | None:
    """Where the first of several texts is, and which; of those that begin at one place the longest."""
    hits = [(place, -len(end), end) for end in ends if (place := text.find(end, start)) >= 0]
    return (min(hits)[0], min(hits)[2]) if hits else None
