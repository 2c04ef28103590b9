"""Stop strings: end a text at the first of several strings, which may straddle tokens. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from rowspan.errors import UsageError


def check_stops(stops: Sequence[str]) -> None:
    """Raise UsageError for an empty stop string."""
    if not all(stops):
        raise UsageError(
            "A stop string is empty.", why="It would end every text at once.", fix="Leave it out of the list."
        )


class StopMatcher:
    """Watches a stream of text for stop strings.

    The stop string that is complete first ends the text (of several complete at the same character, the longest),
    however the text is cut into pieces. Neither it, unless it is included, nor anything after it is emitted.
    """

    def __init__(self, stops: Sequence[str], *, included: bool = False) -> None:
        """Prepare the search. Raises UsageError for an empty stop string."""
        check_stops(stops)
        self._included = included
        self._stops = tuple(stops)
        self._held = ""  # the longest end of the text so far that may be the beginning of a stop string
        self.matched: str | None = None  # the stop string that was hit

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to emit now, and whether a stop string was hit (it stays hit)."""
        if self.matched is not None:
            return "", True
        if not self._stops:
            return text, False
        text = self._held + text
        hits = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if hits:
            self._held = ""
            end, start, self.matched = min(hits)
            return text[: end if self._included else start], True
        safe = len(text) - max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[safe:]
        return text[:safe], False

    def finish(self) -> str:
        """The text held back so far, once no more can come."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
