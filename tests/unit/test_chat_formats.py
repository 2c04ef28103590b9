"""Parsers of models' output: what each family writes, however it is cut into pieces; and nothing is ever lost."""

from __future__ import annotations

import json
import logging
import random
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.errors import UsageError
from rowspan.text.chat_formats.call_grammar import calls_grammar, can_wait
from rowspan.text.chat_formats.deltas import BrokenCall, CallArguments, CallEnd, CallStart, Delta, Reasoning, Text
from rowspan.text.chat_formats.output_parser import OutputParser, ReasoningTags
from rowspan.text.chat_formats.registry import TAGS, TOOL_FORMATS, reasoning_format, tool_format
from rowspan.text.chat_formats.tool_format import ToolFormat
from rowspan.text.grammar import Thought, check_grammar

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "parts": {"type": "array"},
    },
}
TOOLS: dict[str, Any] = {"weather": SCHEMA, "now": {}}
THINK = TAGS["think"]
ROME = {"city": "Rome"}
FULL = {"city": 'São "Paulo"', "days": 3, "exact": True, "parts": [1, {"a": None}]}


class Read(NamedTuple):
    """What an output comes to."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    broken: tuple[str, ...] = ()
    ids: tuple[str | None, ...] = ()


def deltas_of(form: ToolFormat | None, pieces: list[str], reasoning: ReasoningTags | None, begun: bool) -> list[Delta]:
    parser = OutputParser(form, TOOLS, reasoning, begun=begun)
    deltas = [delta for piece in pieces for delta in parser.push(piece)]
    return [*deltas, *parser.finish()]


def joined(deltas: list[Delta]) -> list[Delta]:
    """The deltas, with parts of the same put together."""
    whole: list[Delta] = []
    for delta in deltas:
        match whole[-1:], delta:
            case [Text(before)], Text(more):
                whole[-1] = Text(before + more)
            case [Reasoning(before)], Reasoning(more):
                whole[-1] = Reasoning(before + more)
            case [CallArguments(before)], CallArguments(more):
                whole[-1] = CallArguments(before + more)
            case _:
                whole.append(delta)
    return whole


def read(deltas: list[Delta]) -> Read:
    """What a client that waits for the end gets: a broken call is text."""
    text, reasoning, broken, names, arguments, ids = "", "", list[str](), list[str](), list[str](), list[str | None]()
    ended = 0
    for delta in deltas:
        match delta:
            case Text(more):
                text += more
            case Reasoning(more):
                reasoning += more
            case CallStart(name, call_id):
                names.append(name)
                ids.append(call_id)
                arguments.append("")
            case CallArguments(more):
                arguments[-1] += more
            case CallEnd():
                ended += 1
            case BrokenCall(whole, untold, reason):
                assert reason
                assert whole.endswith(untold)
                broken.append(whole)
                if len(names) > ended:
                    names.pop(), ids.pop(), arguments.pop()
    assert len(names) == ended, "each call ends"
    calls = [(name, json.loads(each)) for name, each in zip(names, arguments, strict=True)]
    return Read(text, reasoning, tuple(calls), tuple(broken), tuple(ids))


def one(name: str = "weather", **arguments: Any) -> tuple[tuple[str, Any], ...]:
    return ((name, arguments),)


TWO: tuple[tuple[str, Any], ...] = (("weather", ROME), ("now", {}))
ROME_ONLY = Read(calls=one(**ROME))
RECORDED: list[tuple[str, str, Read]] = [
    ("hermes", "Hello.\n", Read("Hello.\n")),
    (
        "hermes",
        '<think>\nHm.\n\nYes.\n</think>\n\nI look.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        Read("I look.", "Hm.\n\nYes.", TWO),
    ),
    ("hermes", '<tool_call>{"arguments": {"city": "Rome"}, "name": "weather"}</tool_call>', Read(calls=one(**ROME))),
    ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}', Read(calls=one(**ROME))),
    ("hermes", '<tool_call>{"name": "now"}</tool_call> Bye', Read("Bye", calls=one("now"))),
    (
        "hermes",
        'a <tool_call>{"name": "weather", "arguments": {"city": oops}}</tool_call> b',
        Read("a}</tool_call> b", broken=('<tool_call>{"name": "weather", "arguments": {"city": oops}',)),
    ),
    ("hermes", "2 < 3 <tool", Read("2 < 3 <tool")),
    (
        "qwen3_coder",
        "Sure.\n<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>"
        "\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
        Read("Sure.", calls=one(city="Rome", days=3, exact=True)),
    ),
    (
        "qwen3_coder",
        "<function=weather>\n<parameter=city>\n3\n\n</parameter>\n<parameter=parts>\n[1, 2]\n</parameter>\n</function>",
        Read(calls=one(city="3\n", parts=[1, 2])),
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=now>\n<parameter=x>\n3",
        Read(broken=("<tool_call>\n<function=now>\n<parameter=x>\n3",)),
    ),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Rome"}}', Read(calls=one(**ROME))),
    (
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}; '
        '{"name": "now", "parameters": {}}',
        Read(calls=TWO),
    ),
    ("llama3_json", '<|python_tag|>brave_search.call(query="x y")', Read(calls=one("brave_search.call", query="x y"))),
    ("llama3_json", '{"name": "Rome", "size": 3} is it', Read('{"name": "Rome", "size": 3} is it')),
    ("llama4_pythonic", '[weather(city="Rome"), now()]', Read(calls=TWO)),
    (
        "llama4_pythonic",
        "<|python_start|>[weather(city='São \"Paulo\"', days=3, exact=true, parts=[1, {'a': None}])]<|python_end|>",
        Read(calls=(("weather", FULL),)),
    ),
    ("llama4_pythonic", "[1] is a list", Read("[1] is a list")),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}, "id": "a1b2c3d4e"}]',
        Read(calls=one(**ROME)),
    ),
    (
        "mistral",
        'On it.[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]',
        Read("On it.", calls=TWO),
    ),
    ("mistral_args", '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}', Read(calls=TWO)),
    (
        "mistral_args",
        '[THINK]Hm.[/THINK]Yes[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Rome"}',
        Read("Yes", "Hm.", one(**ROME), ids=("abcdefghi",)),
    ),
    ("mistral_args", '[TOOL_CALLS]weather{"city": "Rome"}', Read(calls=one(**ROME))),
    (
        "openai",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        '<|constrain|>json<|message|>{"city": "Rome"}<|call|>',
        Read("", "Hm.", one(**ROME)),
    ),
    (
        "openai",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
        Read("Hello.", "Hm."),
    ),
    (
        "openai",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary json"
        "<|message|>{}",
        Read("I look.", calls=one("now")),
    ),
    ("openai", "Hello.", Read("Hello.")),
    (
        "glm45",
        "<think>Hm.</think>\nI look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        Read("I look.", "Hm.", (("weather", {"city": "Rome", "days": 3}), ("now", {}))),
    ),
    ("glm45", "<tool_call>now</tool_call>", Read(calls=one("now"))),
    (
        "deepseek_v3",
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Rome"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Read("I look.", calls=TWO),
    ),
    (
        "deepseek_v31",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Read(calls=TWO),
    ),
    (
        "kimi_k2",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Rome"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        Read("I look.", calls=TWO, ids=("functions.weather:0", "functions.now:1")),
    ),
    ("gemma3", 'I look.\n```tool_code\nweather(city="Rome")\n```', Read("I look.", calls=one(**ROME))),
    ("gemma3", '[weather(city="Rome"), now()]', Read(calls=TWO)),
    ("gemma3", '```json\n{"name": "weather", "parameters": {"city": "Rome"}}\n```', Read(calls=one(**ROME))),
    ("gemma3", "```python\nprint(1)\n```", Read("```python\nprint(1)\n```")),
    (
        "granite",
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]',
        Read(calls=TWO),
    ),
    ("granite", '<tool_call>[{"name": "now", "arguments": {}}]', Read(calls=one("now"))),
    (
        "phi4",
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}]<|/tool_call|>',
        Read(calls=one(**ROME)),
    ),
    ("phi4", 'functools[{"name": "weather", "arguments": {"city": "Rome"}}]', Read(calls=one(**ROME))),
    (
        "cohere",
        '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", '
        '"parameters": {"city": "Rome"}}\n]<|END_ACTION|>',
        Read("", "Hm.", one(**ROME)),
    ),
    (
        "cohere",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>",
        Read("Hello.", "Hm."),
    ),
    (
        "minimax_m2",
        '<think>\nHm.\n</think>\n\nI look.\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome'
        '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n'
        "</minimax:tool_call>",
        Read("I look.", "Hm.", (("weather", {"city": "Rome", "days": 3}), ("now", {}))),
    ),
    (
        "gemma4",
        '<|channel>thought\nHm.\n<channel|>I look.<|tool_call>call:weather{city:<|"|>São "Paulo"<|"|>,days:3,'
        "exact:true,parts:[1,{a:null}]}<tool_call|>",
        Read("I look.", "Hm.", (("weather", FULL),)),
    ),
    ("functiongemma", "<start_function_call>call:now{}<end_function_call>", Read(calls=one("now"))),
    (
        "seed_oss",
        "<seed:think>Hm.</seed:think><seed:tool_call>\n<function=weather>\n<parameter=city>Rome</parameter>\n</function>\n"
        "</seed:tool_call>",
        Read("", "Hm.", one(**ROME)),
    ),
    ("json", '{"name": "weather", "arguments": {"city": "Rome"}}', Read(calls=one(**ROME))),
    (
        "json",
        '```json\n[{"name": "weather", "parameters": {"city": "Rome"}}, {"name": "now"}]\n```',
        Read(calls=TWO),
    ),
    ("json", '{"answer": [1, 2]}', Read('{"answer": [1, 2]}')),
    ("json", "[] it is", Read("[] it is")),
]


def tags_in(output: str) -> ReasoningTags | None:
    return next((tags for tags in TAGS.values() if tags.opening in output), None)


@pytest.mark.parametrize(("name", "output", "expected"), RECORDED)
def test_what_each_family_writes_however_it_is_cut(name: str, output: str, expected: Read) -> None:
    form, reasoning = TOOL_FORMATS[name], tags_in(output)
    whole = joined(deltas_of(form, [output], reasoning, begun=False))
    assert read(whole) == expected._replace(ids=expected.ids or (None,) * len(expected.calls))
    for cut in range(len(output) + 1):
        assert joined(deltas_of(form, [output[:cut], output[cut:]], reasoning, begun=False)) == whole
    assert joined(deltas_of(form, list(output), reasoning, begun=False)) == whole
    if reasoning is not None and output.startswith(reasoning.opening):
        rest = output.removeprefix(reasoning.opening)
        assert joined(deltas_of(form, list(rest), reasoning, begun=True)) == whole


@pytest.mark.parametrize("form", [form for form in TOOL_FORMATS.values() if form.written], ids=lambda form: form.name)
@settings(max_examples=12)
@given(data=st.data())
def test_calls_that_are_written_come_back(form: ToolFormat, data: st.DataObject) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each, max_size=3)
    )
    arguments = st.dictionaries(st.text(), values, max_size=3)
    written = form.written
    assert written is not None
    several = 1 if written.single else 3
    calls = data.draw(st.lists(st.tuples(st.sampled_from(list(TOOLS)), arguments), min_size=1, max_size=several))
    output = written.write([(name, json.dumps(given)) for name, given in calls])
    found = read(deltas_of(form, [output], None, begun=False))
    assert found.calls == tuple(calls)
    assert not found.text
    assert not found.broken


def test_arguments_are_told_as_they_come() -> None:
    parser = OutputParser(TOOL_FORMATS["hermes"], TOOLS, None)
    assert parser.push('<tool_call>{"name": "weather", "arg') == []
    assert parser.push('uments": {"city": "R') == [CallStart("weather"), CallArguments('{"city": "R')]
    assert parser.push("om") == [CallArguments("om")]


WORDS = sorted(
    {marker for form in TOOL_FORMATS.values() for marker in form.markers}
    | {"<think>", "</think>", "<function=now>", "<parameter=x>", "</parameter>", "</function>", "functools"}
    | {
        '<invoke name="now">',
        "</invoke>",
        "```tool_code\n",
        "```",
        '{"name": "now", ',
        '"arguments": {"a": ',
        "1",
        "}}",
    }
    | {"[", "]", ", ", "now", "now(a=", ")", '"', "\\", "é", " ", "\n", "text", "functions.now:0", " to=functions.now"}
)
SPACE = re.compile(r"\s")
LEFT_OUT = sorted((SPACE.sub("", word) for word in (*WORDS, "analysis", "assistant", "json")), key=len, reverse=True)


def check_nothing_is_lost(output: str, deltas: list[Delta]) -> None:
    """What is told comes in the output's order; between are markers and white space, or calls that were told."""
    output = SPACE.sub("", output)
    places = {0}  # where what comes next may begin

    def with_skipped() -> set[int]:
        found, new = set(places), list(places)
        while new:
            place = new.pop()
            behind = {place + len(word) for word in LEFT_OUT if word and output.startswith(word, place)} - found
            found |= behind
            new += behind
        return found

    for delta in deltas:
        match delta:
            case CallEnd():
                places = set(range(min(places), len(output) + 1))
            case Text(told) | Reasoning(told) | BrokenCall(told):
                for character in SPACE.sub("", told):
                    places = {place + 1 for place in with_skipped() if output[place : place + 1] == character}
                    assert places, f"{deltas} are not in {output!r}"
    assert len(output) in with_skipped(), f"{deltas} are not all of {output!r}"


def fuzzed(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.randint(0, 25)))


def check_fuzzed(rng: random.Random, form: ToolFormat) -> None:
    output = fuzzed(rng)
    reasoning = rng.choice([None, THINK])
    whole = joined(deltas_of(form, [output], reasoning, begun=False))
    cuts = sorted(rng.choices(range(len(output) + 1), k=4))
    pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
    assert joined(deltas_of(form, pieces, reasoning, begun=False)) == whole
    read(whole)
    one_by_one = deltas_of(form, list(output), reasoning, begun=False)  # what is left out parts these
    assert joined(one_by_one) == whole
    check_nothing_is_lost(output, one_by_one)


@pytest.mark.parametrize("form", TOOL_FORMATS.values(), ids=lambda form: form.name)
def test_nothing_is_lost(form: ToolFormat, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random()
    for _ in range(25):
        check_fuzzed(rng, form)


@pytest.mark.heavy
@pytest.mark.parametrize("form", TOOL_FORMATS.values(), ids=lambda form: form.name)
def test_nothing_is_lost_of_very_many(form: ToolFormat, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random()
    for _ in range(100_000 // len(TOOL_FORMATS)):
        check_fuzzed(rng, form)


@pytest.mark.parametrize("form", [form for form in TOOL_FORMATS.values() if form.written], ids=lambda form: form.name)
def test_calls_can_be_constrained(form: ToolFormat) -> None:
    for thought in (
        None,
        form.thought,
        Thought("<think>", "</think>", begun=True),
        Thought("<think>", "</think>", begun=False, markers=("<think>", "</think>")),
    ):
        for required in (True, False) if can_wait(form) else (True,):
            for parallel in (True, False):
                check_grammar(
                    calls_grammar(
                        form, TOOLS, strict=["weather"], required=required, parallel=parallel, thought=thought
                    )
                )


@pytest.mark.parametrize(
    ("template", "form", "tags"),
    [
        ("{{ tools }}<tool_call>…</think>", "hermes", "think"),
        ("<tool_call><function=f><parameter=x>", "qwen3_coder", None),
        ("<|start_header_id|>ipython<|end_header_id|>", "llama3_json", None),
        ("[TOOL_CALLS]…[ARGS]…[/THINK]", "mistral_args", "mistral"),
        ("[TOOL_CALLS]", "mistral", None),
        ("<|start|>assistant<|channel|>final<|message|>", "openai", None),
        ("<tool_call><arg_key></think>", "glm45", "think"),
        ("<｜tool▁sep｜>", "deepseek_v31", None),
        ("<|im_start|>", "json", None),
    ],
)
def test_a_format_is_found_by_its_template(template: str, form: str, tags: str | None) -> None:
    assert tool_format(None, template).name == form
    assert reasoning_format(None, template) == (tags and TAGS[tags])
    assert tool_format("glm45", template).name == "glm45"
    assert reasoning_format("none", template) is None
    with pytest.raises(UsageError, match="nonsense"):
        tool_format("nonsense", template)
