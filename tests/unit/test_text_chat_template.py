"""Chat templates: what Hugging Face's templates rely on, and what a template must not do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.vocabulary import CHATML, bpe, spm

from rowspan.errors import CheckpointError, UnsupportedModelError, UsageError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.tokenizer import Tokenizer

CHATML_TEMPLATE = ChatTemplate(CHATML, bos_token="", eos_token="")
HELLO = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict[str, Any]] | None = None, **options: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages or HELLO, **options)


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})))
def test_chatml_as_written_by_hand(messages: list[dict[str, Any]]) -> None:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert CHATML_TEMPLATE.render(messages) == turns + "<|im_start|>assistant\n"
    assert CHATML_TEMPLATE.render(messages, add_generation_prompt=False) == turns


def test_blocks_leave_no_blank_lines_behind() -> None:
    assert (
        render("{% for m in messages %}\n    {% if true %}\nx{{ m.content }}\n    {% endif %}\n{% endfor %}\n")
        == "xhi\n"
    )


def test_the_variables_of_a_template() -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ enable_thinking }}"
    assert render(source, enable_thinking=False) == "<s></s>TrueFalse"


def test_json_is_plain() -> None:
    tools = [{"type": "function", "function": {"name": "é<a>&'b'"}}]
    assert render("{{ tools | tojson }}", tools=tools) == str(tools).replace("'", '"').replace('"b"', "'b'")
    assert render('{{ {"a": [1]} | tojson(indent=2) }}') == '{\n  "a": [\n    1\n  ]\n}'


def test_loop_controls_generation_blocks_and_dates() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(source) == "02"
    assert render("a{% generation %}b{{ bos_token }}{% endgeneration %}c") == "ab<s>c"
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_content_parts_are_joined_and_the_callers_messages_left_alone() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render("{{ messages[0].content }}", messages) == "ab"
    assert isinstance(messages[0]["content"], list)


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {}}, "text", {"type": "text"}, {}])
def test_other_content_parts_are_refused(part: Any) -> None:
    with pytest.raises(UsageError, match="content part"):
        render("", [{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ 'x' + messages[0].tool_calls + 1 }}", "tool_calls"),
        ("{{ 1 / 0 }}", "division"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_errors_quote_the_template(source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.json }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(99999) %}" + 9999 * "x" + "{% endfor %}",
    ],
)
def test_a_template_stays_in_its_sandbox(source: str) -> None:
    with pytest.raises(UsageError):
        render(source)


def test_a_broken_template_is_the_models_fault() -> None:
    with pytest.raises(UnsupportedModelError, match="Encountered unknown tag 'for_each'"):
        ChatTemplate("{% for_each %}", bos_token="", eos_token="")


def test_from_metadata() -> None:
    template = ChatTemplate.from_metadata(spm(), Tokenizer.from_metadata(spm()))
    assert template is not None
    assert template.render(HELLO) == "<s>[INST] hi [/INST]"
    without = bpe(chat_template=None)
    assert ChatTemplate.from_metadata(without, Tokenizer.from_metadata(without)) is None
    with pytest.raises(CheckpointError, match=r"tokenizer\.chat_template"):
        ChatTemplate.from_metadata({"tokenizer.chat_template": 3}, Tokenizer.from_metadata(without))
