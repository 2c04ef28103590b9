"""Tools and calls of earlier turns reach the model, whatever its chat template takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kit.vocabulary import CHATML

from rowspan.errors import UsageError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.prompt import render_chat
from rowspan.text.tool_history import wanted_by

ARGUMENTS = '{"city": "Rome"}'
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "call00001"},
]
OBJECTS = (
    "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{% endfor %}"
)
TEXTS = OBJECTS.replace(" | tojson }}]", " }}]").replace("m.content or ''", "'' + m.content")
ALTERNATING = (
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def rendered(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return render_chat(ChatTemplate(source, bos_token="", eos_token=""), messages, **options)


@pytest.mark.parametrize(("source", "objects", "null"), [(OBJECTS, True, True), (TEXTS, False, False)])
def test_arguments_and_content_as_the_template_wants_them(source: str, objects: bool, null: bool) -> None:
    wanted = wanted_by(ChatTemplate(source, bos_token="", eos_token=""))
    assert (wanted.objects, wanted.null, wanted.calls, wanted.results, wanted.tools) == (objects, null, *[True] * 3)
    shown = rendered(source, MESSAGES, tools=TOOLS)
    assert shown == f"{json.dumps(TOOLS)}<system>Be brief.<user>Rain?<assistant>[weather {ARGUMENTS}]<tool>sunny"
    given = {**CALL, "function": {"name": "weather", "arguments": json.loads(ARGUMENTS)}}
    as_object = [*MESSAGES[:2], {**MESSAGES[2], "tool_calls": [given]}, MESSAGES[3]]
    assert rendered(source, as_object, tools=TOOLS) == shown


def test_a_template_that_knows_of_no_tools_is_told_in_words() -> None:
    shown = rendered(CHATML, MESSAGES, tools=TOOLS)
    start, _, rest = shown.partition("Be brief.")
    assert json.dumps(TOOLS[0]["function"]) in start
    assert '[{"name": "function", "arguments": {"parameter": "value"}}]' in start
    assert start.count("<|im_start|>") == 1, "there is one system message"
    assert f'<|im_start|>assistant\n[{{"name": "weather", "arguments": {ARGUMENTS}}}]<|im_end|>' in rest
    assert "<|im_start|>tool\nsunny<|im_end|>" in rest


def test_one_that_wants_roles_to_alternate() -> None:
    parts = [{"type": "text", "text": "sun"}, {"type": "text", "text": "ny"}]
    messages = [*MESSAGES[1:3], {**MESSAGES[3], "content": parts}, {"role": "user", "content": "And tomorrow?"}]
    shown = rendered(ALTERNATING, messages, tools=TOOLS)
    assert shown.endswith("<user>The function returned:\nsunny\n\nAnd tomorrow?")
    assert shown.startswith("<user>You can call functions.")
    assert json.dumps(TOOLS[0]["function"]) in shown


def test_without_tools_nothing_changes() -> None:
    assert rendered(CHATML, MESSAGES[:2]) == ChatTemplate(CHATML, bos_token="", eos_token="").render(MESSAGES[:2])


def test_the_last_message_goes_on() -> None:
    messages = [MESSAGES[1], {"role": "assistant", "content": "It is  "}]
    assert rendered(CHATML, messages, continue_final_message=True).endswith("<|im_start|>assistant\nIt is")
    with pytest.raises(UsageError, match="cannot be continued"):
        rendered(CHATML, [{"role": "assistant", "content": ""}], continue_final_message=True)
