"""Tools and structured output over real HTTP, with OpenAI's own client: a model of random weights that a grammar
guides always calls rightly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import MODEL_NAME, RunningServer, serving
from kit.vocabulary import CONTROL, bpe

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode
from rowspan.server.anthropic.writer import input_of

HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Calls: <tool_call>\n…\n</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    '{% for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}NOTHINK{% endif %}{% if think %}<think>\n{% endif %}{% endif %}"
)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather?"}]
REASONING = "reasoning_content"
SPECIAL = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


class City(pydantic.BaseModel):
    name: Literal["Rome", "Oslo"]
    parts: list[Literal[1, 2]]


@pytest.fixture(scope="module", params=["plain markers", "special markers"])
def tools_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    vocabulary = bpe(300, chat_template=HERMES)
    if request.param == "special markers":
        vocabulary["tokenizer.ggml.tokens"][-len(SPECIAL) :] = SPECIAL
        vocabulary["tokenizer.ggml.token_type"][-len(SPECIAL) :] = CONTROL
    model = TinyModel(context_length=2048, vocab_size=300, chat_template=HERMES, extra=vocabulary)
    path = model.write(tmp_path_factory.mktemp("tools") / "tiny.gguf")
    config = EngineConfig(path, split_mode=SplitMode.NONE, parallel=4, cache_tokens=8192, threads=1)
    with Engine.open(config) as engine, serving(engine, ServerConfig()) as running:
        yield running


@pytest.fixture(scope="module")
def chat(tools_server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{tools_server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client.chat.completions


@pytest.fixture(scope="module")
def no_space(tools_server: RunningServer) -> dict[str, int]:
    """Biases without which random weights write white space wherever JSON may have it."""
    encode = tools_server.engine.tokenizer.encode
    return {str(encode(space, add_special=False)[0]): -100 for space in (" ", "\n", "\t", "\r", "  ")}


def ask(chat: Any, **fields: Any) -> Any:
    return chat.create(model=MODEL_NAME, messages=QUESTION, **{"max_tokens": 400, "temperature": 1, **fields})


def joined(stream: Any) -> tuple[str, list[dict[str, str]], list[str | None]]:
    """Text, calls and finish reasons of a stream, put together as OpenAI's documentation says."""
    text, calls, reasons = "", list[dict[str, str]](), []
    for chunk in stream:
        (choice,) = chunk.choices
        assert "tool_calls" not in choice.delta.model_fields_set or choice.delta.tool_calls
        text += choice.delta.content or ""
        for part in choice.delta.tool_calls or []:
            if part.index == len(calls):
                assert part.type == "function"
                calls.append({"id": part.id, "name": part.function.name, "arguments": ""})
            calls[part.index]["arguments"] += part.function.arguments or ""
        reasons.append(choice.finish_reason)
    return text, calls, reasons


def check_weather(arguments: str) -> None:
    found = json.loads(arguments)
    assert list(found) == ["city", "days", "unit"]
    assert isinstance(found["city"], str)
    assert len(found["city"]) <= 12
    assert 1 <= found["days"] <= 14
    assert found["unit"] in ("C", "F")


@pytest.mark.parametrize("seed", range(2))
def test_a_named_function_is_called(chat: Any, no_space: Any, seed: int) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    asked = {"tools": TOOLS, "tool_choice": choice, "seed": seed, "logit_bias": no_space}
    whole = ask(chat, **asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    (call,) = whole.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)
    check_weather(call.function.arguments)
    text, calls, reasons = joined(ask(chat, **asked, stream=True))
    assert text == ""
    assert [each["arguments"] for each in calls] == [call.function.arguments]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    assert len(reasons) > 5, "arguments come as they are written"


@pytest.mark.parametrize("seed", range(2))
def test_some_function_is_called_and_log_probabilities_go_with_it(chat: Any, no_space: Any, seed: int) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "seed": seed, "logit_bias": no_space}
    asked["parallel_tool_calls"] = False
    chunks = list(ask(chat, **asked, stream=True, logprobs=True, top_logprobs=1))
    _, calls, _ = joined(chunks)
    (call,) = calls
    assert call["name"] in ("weather", "now")
    assert isinstance(json.loads(call["arguments"]), dict)
    tokens = [token for chunk in chunks for token in chunk.choices[0].logprobs.content]
    spelled = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert spelled.startswith("<tool_call>\n{")
    assert spelled.endswith("</tool_call>")
    assert call["arguments"] in spelled


def test_a_schema_that_cannot_be_enforced(chat: Any, no_space: Any) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    tools: list[Any] = [{"type": "function", "function": {"name": "odd", "parameters": odd}}]
    asked = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 30}
    (call,) = ask(chat, **asked, logit_bias=no_space).choices[0].message.tool_calls or [None]
    assert call is None or call.function.name == "odd"
    tools[0]["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="nonsense") as refused:
        ask(chat, **asked)
    assert refused.value.param == "tools[0].function.parameters"


def test_several_calls_at_once_and_a_stream_helper(chat: Any, no_space: Any) -> None:
    asked = {"tools": TOOLS[:1], "tool_choice": "required", "seed": 4, "logit_bias": no_space}
    with chat.stream(model=MODEL_NAME, messages=QUESTION, max_tokens=300, **asked) as stream:
        try:
            final = stream.get_final_completion().choices[0]
        except openai.LengthFinishReasonError as error:  # random weights may call for ever
            final = error.completion.choices[0]
    calls = final.message.tool_calls
    whole = calls if final.finish_reason == "tool_calls" else calls[:-1]
    assert whole
    for call in whole:
        check_weather(call.function.arguments)
    assert len({call.id for call in calls}) == len(calls)


def test_a_tool_that_may_but_need_not_be_called(chat: Any) -> None:
    answer = ask(chat, tools=TOOLS, max_tokens=12).choices[0]
    assert answer.message.tool_calls is None
    assert answer.message.content
    none = ask(chat, tools=TOOLS, tool_choice="none", max_tokens=4, seed=1)
    assert none.usage.prompt_tokens == ask(chat, max_tokens=4).usage.prompt_tokens, "the model is not told of them"
    assert none.choices[0].message.content == ask(chat, max_tokens=4, seed=1).choices[0].message.content


def test_a_conversation_with_calls_goes_through_the_template(chat: Any, tools_server: RunningServer) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
    ]
    usage = chat.create(model=MODEL_NAME, messages=messages, max_tokens=1).usage
    prompt = (
        "<|im_start|>user\nWhat is the weather?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
    )
    assert usage.prompt_tokens == len(tools_server.engine.tokenizer.encode(prompt))


def test_the_templates_variables(chat: Any) -> None:
    def prompt_tokens(**fields: Any) -> int:
        tokens: int = ask(chat, max_tokens=1, extra_body=fields).usage.prompt_tokens
        return tokens

    plain = prompt_tokens()
    assert prompt_tokens(chat_template_kwargs={"enable_thinking": False}) > plain
    assert prompt_tokens(enable_thinking=False) > plain
    assert prompt_tokens(enable_thinking=True) == plain
    assert prompt_tokens(add_generation_prompt=False) < plain
    assert prompt_tokens(continue_final_message=True) < prompt_tokens(add_generation_prompt=False)


@pytest.mark.parametrize("tools_server", ["special markers"], indirect=True, scope="module")
@pytest.mark.parametrize("schema", [None, City])
def test_a_strict_tool_that_need_not_be_called_is_called_rightly(
    chat: Any, no_space: Any, tools_server: RunningServer, schema: Any
) -> None:
    tokenizer = tools_server.engine.tokenizer
    biases = no_space | {str(*tokenizer.token_ids(SPECIAL[:1])): 100, **{str(end): 50 for end in tokenizer.end_ids}}
    asked = {"tools": TOOLS[:1], "logit_bias": biases, "parallel_tool_calls": False, "seed": 3}
    if schema is not None:
        asked["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema.model_json_schema(), "strict": True},
        }
    answer = ask(chat, **asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    check_weather(call.function.arguments)


@pytest.mark.parametrize("seed", range(2))
def test_an_answer_of_a_schema(chat: Any, seed: int) -> None:
    answer = chat.parse(model=MODEL_NAME, messages=QUESTION, response_format=City, seed=seed, max_tokens=400)
    assert answer.choices[0].message.parsed.name in ("Rome", "Oslo")
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("tools_server", ["special markers"], indirect=True, scope="module")
@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_comes_before_what_is_constrained(tools_server: RunningServer, stream: bool) -> None:
    tokenizer = tools_server.engine.tokenizer
    body = {
        "messages": QUESTION,
        "chat_template_kwargs": {"think": True},
        "logit_bias": {str(*tokenizer.token_ids(["</think>"])): 6, **{str(end): -100 for end in tokenizer.end_ids}},
        "guided_choice": ["yes", "no"],
        "max_tokens": 300,
        "seed": 1,
        "stream": stream,
    }
    thinking = ServerConfig(reasoning_parser="think")
    with serving(tools_server.engine, thinking) as running, running.client() as http:
        response = http.post("/v1/chat/completions", json=body)
    if stream:
        events = response.text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
        changes = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        message = {name: "".join(change.get(name) or "" for change in changes) for name in ("content", REASONING)}
    else:
        message = response.json()["choices"][0]["message"]
    assert message["content"] in ("yes", "no")
    assert message[REASONING]
    assert "think>" not in message[REASONING]


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "ab{2,4}[0-9]"}, r"ab{2,4}\d"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"choice": ["maybe", "never"]}}, "maybe|never"),
        ({"guided_json": {"const": 7}}, "7"),
        ({"json_schema": {"enum": ["x"]}}, '"x"'),
        ({"grammar": 'root ::= "a" b\nb ::= [0-3]{3}'}, "a[0-3]{3}"),
        ({"guided_grammar": 'start: "a" B\nB: /[0-3]{3}/'}, "a[0-3]{3}"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1, 2]}}}}, "1|2"),
    ],
)
def test_other_ways_to_ask_for_a_form(chat: Any, fields: Any, pattern: str) -> None:
    answers = ask(chat, extra_body=fields, n=4, frequency_penalty=0.3).choices
    assert [answer.finish_reason for answer in answers] == ["stop"] * 4
    assert all(re.fullmatch(pattern, answer.message.content) for answer in answers)


def test_calls_that_max_tokens_cut_off_are_answers_too(tools_server: RunningServer) -> None:
    """In every dialect, wherever the answer ends; what is there of the arguments is told."""
    function = TOOLS[0]["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    with tools_server.client() as http:
        for most in (*range(1, 30, 3), 60):
            body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": most, "tools": [tool]}
            message = http.post("/v1/messages", json={**body, "model": "tiny", "tool_choice": {"type": "any"}})
            assert message.status_code == 200, message.text
            uses = [block for block in message.json()["content"] if block["type"] == "tool_use"]
            assert all(isinstance(block["input"], dict) for block in uses)
            body = {"messages": body["messages"], "tools": TOOLS, "stream": False, "options": {"num_predict": most}}
            assert http.post("/api/chat", json={**body, "model": "tiny"}).status_code == 200
            body = {"input": "?", "max_output_tokens": most, "tools": [{"type": "function", **function}]}
            assert http.post("/v1/responses", json={**body, "tool_choice": "required"}).status_code == 200
    assert input_of('{"n": [123456789012345678901234567890], "m": 1}') == {"n": [1.2345678901234568e29], "m": 1}
    assert [input_of(text) for text in ('{"city": "Os', '{"city": "Oslo", "da', '{"', "", "[")] == [
        {"city": "Os"},
        {"city": "Oslo"},
        {},
        {},
        {},
    ]
