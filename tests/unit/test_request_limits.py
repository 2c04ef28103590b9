"""What any engine refuses of a request."""

from __future__ import annotations

import pytest

from rowspan.errors import ContextOverflowError, UsageError
from rowspan.scheduler.limits import check_least_length, check_lengths, check_vocabulary


def test_what_fits_passes() -> None:
    check_lengths(1, 1, 2)
    check_lengths(99, 1000, 100)
    check_vocabulary([0, 9, 5], 10)
    check_vocabulary([], 10)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "kind", "says"),
    [
        (0, 1, UsageError, "The prompt is empty"),
        (1, 0, UsageError, "max_tokens is 0"),
        (100, 1, ContextOverflowError, "has 100 tokens; the context holds 100"),
    ],
)
def test_what_does_not_fit_is_explained(prompt: int, max_tokens: int, kind: type[UsageError], says: str) -> None:
    with pytest.raises(kind, match=says):
        check_lengths(prompt, max_tokens, 100)


@pytest.mark.parametrize("tokens", [[10], [-1], [0, 1, 10], [5, -1, 3]])
def test_a_token_of_another_vocabulary_is_refused(tokens: list[int]) -> None:
    with pytest.raises(UsageError, match=r"token id that the model does not have.*0 to 9"):
        check_vocabulary(tokens, 10)


def test_a_prompt_may_be_known_to_be_too_long() -> None:
    check_least_length(99, 100)
    with pytest.raises(ContextOverflowError, match="has at least 100 tokens; the context holds 100"):
        check_least_length(100, 100)
