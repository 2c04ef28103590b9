"""What a parser of output yields: parts of an answer, in order."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeAlias, TypeVar

Result = TypeVar("Result")


class Text(NamedTuple):
    """A part of the answer's text."""

    text: str


class Reasoning(NamedTuple):
    """A part of what the model says before its answer."""

    text: str


class CallStart(NamedTuple):
    """A tool call begins. id: as the model gave it, if it did."""

    name: str
    id: str | None = None


class CallArguments(NamedTuple):
    """A part of the last call's arguments, an object in JSON."""

    json: str


class CallEnd(NamedTuple):
    """The last call is whole: its arguments parse."""


class BrokenCall(NamedTuple):
    """What looked like a call does not parse, and is text.

    text: all of it, as the model wrote it.
    untold: what of it is in no delta so far; all of it, unless the call has begun.
    reason: for the log.
    """

    text: str
    untold: str
    reason: str


Delta: TypeAlias = Text | Reasoning | CallStart | CallArguments | CallEnd | BrokenCall

Steps: TypeAlias = Generator[Delta | None, None, Result]
"""A parser at work: it yields deltas, and None to ask for more of the output."""
