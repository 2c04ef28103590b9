"""Stop strings, against a naive reading of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.errors import UsageError
from rowspan.text.stop import StopMatcher

LETTERS = st.text("ab\n", max_size=40)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str], included: bool = False) -> tuple[str, bool]:
    """Read character by character; stop as soon as the text read so far ends with a stop string."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end if included else end - max(map(len, hits))], True
    return text, False


def stream(chunks: list[str], stops: list[str], included: bool = False) -> tuple[str, bool]:
    matcher = StopMatcher(stops, included=included)
    emitted = ""
    for chunk in chunks:
        text, stopped = matcher.push(chunk)
        emitted += text
        if stopped:
            assert matcher.push("more") == ("", True)
            return emitted + matcher.finish(), True
    return emitted + matcher.finish(), False


@given(LETTERS, STOPS, st.booleans(), st.data())
def test_streaming_equals_the_naive_reading(text: str, stops: list[str], included: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream(chunks, stops, included) == naive(text, stops, included)


@given(LETTERS, STOPS)
def test_nothing_is_held_that_cannot_become_a_stop_string(text: str, stops: list[str]) -> None:
    emitted, stopped = StopMatcher(stops).push(text)
    held = text[len(emitted) :]
    assert stopped or not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_straddles_many_tokens() -> None:
    matcher = StopMatcher(["</answer>"])
    pieces = [matcher.push(piece) for piece in ("4", "2<", "/", "ans", "wer", "> and so on")]
    assert pieces == [("4", False), ("2", False), ("", False), ("", False), ("", False), ("", True)]
    assert matcher.finish() == ""


def test_a_false_alarm_is_released() -> None:
    matcher = StopMatcher(["###"])
    assert matcher.push("a ##") == ("a ", False)
    assert matcher.push(" b#") == ("## b", False)
    assert matcher.finish() == "#"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="stop string is empty"):
        StopMatcher(["a", ""])
