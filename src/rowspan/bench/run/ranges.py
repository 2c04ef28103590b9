"""Reads values of a benchmark's options: comma lists, ranges, and alternatives of whole lists."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowspan.errors import UsageError

MAX_VALUES = 1000  # most values of one range: more is a typing error
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?:([+*])(\d{1,9}))?)?")


def parse_numbers(option: str, texts: Iterable[str], least: int = 0) -> tuple[int, ...]:
    """Read numbers and ranges as llama-bench does: "128,256", "1-4" (every one), "0-512+128", "1-64*2".

    Args:
        option: the option's name, for error messages.
        texts: the option's values, one for each time it was given.
        least: the smallest value that makes sense.

    Raises:
        UsageError: a text is no such range, has a smaller number, or never ends.
    """
    values = tuple(value for text in texts for part in text.split(",") for value in _parse_range(option, part.strip()))
    if any(value < least for value in values):
        raise UsageError(f"{option} {min(values)} is too small.", fix=f"Give {least} or more.")
    return values


def parse_names(option: str, texts: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Read comma lists of names.

    Raises:
        UsageError: a name is not among the known ones.
    """
    choices = tuple(known)
    names = tuple(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if name not in choices:
            raise UsageError(f"{option} {name!r} is not known.", fix=f"Choose among {', '.join(choices)}.")
    return names


def parse_pairs(option: str, texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Read pairs, one each time the option is given: "512,128" is a prompt of 512 tokens and then 128 generated ones.

    Raises:
        UsageError: a text is not two positive numbers.
    """
    return tuple(_parse_pair(option, text) for text in texts)


def alternatives(texts: Iterable[str]) -> tuple[str, ...]:
    """Split an option whose value is itself a list, such as devices, into its alternatives, each a comma list.

    "cpu:0,cpu:1" is one alternative, as everywhere in Rowspan. If there is a slash, commas separate the alternatives,
    as in llama-bench: "cpu:0/cpu:1,cpu:0/cpu:1/cpu:2" are two.
    """
    return tuple(part.replace("/", ",") for text in texts for part in (text.split(",") if "/" in text else (text,)))


def _parse_range(option: str, text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{option} {text!r} is neither a number nor a range.",
            fix="Write numbers such as 128,256, or ranges: 1-4, 0-512+128 (steps of 128), 1-64*2 (doubling).",
        )
    first, last = int(match[1]), int(match[2] or match[1])
    operator, step = match[3] or "+", int(match[4] or 1)
    if last < first:
        raise UsageError(f"{option} {text!r} is an empty range.", fix="Write the smaller number first.")
    values: list[int] = []
    value = first
    while value <= last:
        values.append(value)
        value = value + step if operator == "+" else value * step
        if value <= values[-1] or len(values) > MAX_VALUES:
            raise UsageError(
                f"{option} {text!r} is a range of too many values.",
                why="Its step does not lead on." if value <= values[-1] else f"At most {MAX_VALUES} are sensible.",
                fix="Use a larger step; multiply by 2 or more, from 1 or more.",
            )
    return values


def _parse_pair(option: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise UsageError(
            f"{option} {text!r} is not a pair of positive numbers.",
            fix="Write prompt and generated tokens, such as -pg 512,128; give the option again for another pair.",
        )
    return int(match[1]), int(match[2])
