"""Real models' chat templates, rendered as transformers renders them: tools, calls, results, thoughts, documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rowspan.errors import UsageError
from rowspan.text.chat_template import ChatTemplate

TEMPLATES = sorted((Path(__file__).parents[1] / "data" / "chat_templates").glob("*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather in a city, «Zürich» <&> others.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                    "days": {"type": "integer"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}}},
]
SYSTEM = {"role": "system", "content": "You are <helpful>.\n"}
USER = {"role": "user", "content": "How's the weather in Zürich?  "}
ANSWER = {"role": "assistant", "content": "It is 'sunny' & \"warm\"."}
THOUGHTFUL = {"role": "assistant", "content": "Done.", "reasoning_content": "Think é"}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"t": 20}', "name": "get_weather", "tool_call_id": "call00001"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "several turns": [SYSTEM, USER, ANSWER, USER],
    "a call": [USER, CALLING, RESULT],
    "an answered call": [SYSTEM, USER, {**CALLING, "content": None}, RESULT, ANSWER, USER],
    "thoughts": [USER, THOUGHTFUL, USER],
    "no user": [ANSWER, ANSWER],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tools": TOOLS},
    {"tools": TOOLS, "enable_thinking": False, "add_generation_prompt": False},
    {"reasoning_effort": "high", "documents": [{"title": "A", "text": "b"}]},
]


def rendered(source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """What transformers makes of it; None if the template refuses."""
    try:
        options = {"add_generation_prompt": True, **TOKENS, **options}
        (text,), _ = render_jinja_template([messages], chat_template=source, **options)
    except Exception:  # a template may raise anything
        return None
    return str(text)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_rendered_as_in_transformers(path: Path) -> None:
    source = path.read_text("utf-8")
    template = ChatTemplate(source, bos_token=TOKENS["bos_token"], eos_token=TOKENS["eos_token"])
    accepted = 0
    for name, messages in CONVERSATIONS.items():
        for options in OPTIONS:
            before = rendered(source, messages, options)
            try:
                text = template.render(messages, **options)
            except UsageError:
                text = None
            # Some templates write today's date, which may change in between.
            assert text in (before, rendered(source, messages, options)), (name, options)
            accepted += text is not None
    assert accepted >= 8


def test_there_are_templates() -> None:
    assert len(TEMPLATES) >= 20
