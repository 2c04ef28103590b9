"""Bodies with very many faults, or very many of anything, are refused at once: they are read while all others wait."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rowspan.server.error_replies import explain_invalid
from rowspan.server.openai.schema import (
    MAX_BIASES,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)

MANY = 20_000
HELLO = [{"role": "user", "content": "hello"}]


def refusal(kind: type[GenerationRequest], body: dict[str, Any]) -> tuple[int, str, str | None]:
    """How many faults are reported, what is told of them, and of which field."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in refused.value.errors()]
    return len(errors), *explain_invalid(errors, body)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (CompletionRequest, {"prompt": [0] * MANY + [-1]}, f"prompt[{MANY}]"),
        (CompletionRequest, {"prompt": [-1] * MANY}, "prompt[0]"),
        (CompletionRequest, {"prompt": ["a"] * MANY + [1]}, f"prompt[{MANY}]"),
        (CompletionRequest, {"prompt": [[0] * MANY + [-1], [-1]]}, f"prompt[0][{MANY}]"),
        (CompletionRequest, {"prompt": [[-1]] * MANY}, "prompt[0][0]"),
        (ChatRequest, {"messages": [0] * (MAX_MESSAGES - 1)}, "messages[0]"),
        (ChatRequest, {"messages": [{"role": "user", "content": [0] * 5000}]}, "messages[0].content[0]"),
        (ChatRequest, {"messages": HELLO, "stop": [0] * MANY}, "stop[0]"),
        (ChatRequest, {"messages": HELLO, "logit_bias": dict.fromkeys(map(str, range(MANY)), "x")}, "logit_bias.0"),
        (ChatRequest, {"messages": HELLO, "logit_bias": dict.fromkeys(map(str, range(MANY)), 101)}, "logit_bias.0"),
    ],
)
def test_the_first_of_many_faults_is_told(kind: type[GenerationRequest], body: dict[str, Any], field: str) -> None:
    found, message, told = refusal(kind, body)
    assert found <= 5
    assert told == field
    assert field in message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("messages", HELLO * (MAX_MESSAGES + 1), f"There are {MAX_MESSAGES + 1} messages and parts of messages"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "text", "text": ""}] * (MAX_MESSAGES // 2 + 1)}] * 2,
            f"There are {MAX_MESSAGES + 2} messages and parts",
        ),
        ("stop", "a" * (MAX_STOP_LENGTH + 1), f"at most {MAX_STOP_LENGTH} characters"),
        ("stop", ["a", "b" * (MAX_STOP_LENGTH + 1)], f"at most {MAX_STOP_LENGTH} characters"),
        ("logit_bias", dict.fromkeys(map(str, range(MAX_BIASES + 1)), 1), f"There are {MAX_BIASES + 1} biases"),
    ],
)
def test_too_many_are_refused(field: str, value: Any, says: str) -> None:
    found, message, told = refusal(ChatRequest, {"messages": HELLO, field: value})
    assert found <= 3
    assert says in message
    assert told is not None
    assert told.startswith(field)


def test_as_many_as_make_sense_are_taken() -> None:
    whole = ChatRequest.model_validate({"messages": HELLO * MAX_MESSAGES, "stop": ["a" * MAX_STOP_LENGTH] * 256})
    assert len(whole.messages) == MAX_MESSAGES
    biases = dict.fromkeys(map(str, range(MAX_BIASES)), -100)
    assert ChatRequest.model_validate({"messages": HELLO, "logit_bias": biases}).logit_bias == biases
    assert len(CompletionRequest.model_validate({"prompt": [7] * 1_000_000}).prompts[0]) == 1_000_000
