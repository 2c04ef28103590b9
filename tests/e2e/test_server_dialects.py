"""Anthropic's and Ollama's APIs with their own clients, and llama-server's routes for texts, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import ollama
import pytest
from kit.hermes_model import WEATHER, hermes_model
from kit.http_server import MODEL_NAME, RunningServer, serving

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

KEY = "secret"
ASKED: list[Any] = [{"role": "user", "content": "What is the weather?"}]
TOOL: Any = {"name": "weather", "description": "Forecast", "input_schema": WEATHER}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = hermes_model(tmp_path_factory.mktemp("dialects") / "m.gguf")
    config = EngineConfig(path, split_mode=SplitMode.NONE, parallel=4, cache_tokens=8192, threads=1)
    with Engine.open(config) as engine, serving(engine, ServerConfig(api_keys=frozenset({KEY}))) as running:
        yield running


@pytest.fixture(scope="module")
def claude(server: RunningServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def llama(server: RunningServer) -> ollama.Client:
    return ollama.Client(server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=60) as client:
        yield client


def is_weather(arguments: Any) -> bool:
    return arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 9


def test_a_message(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "claude-sonnet-4-5", "messages": ASKED, "extra_body": {"temperature": 0}}
    message = claude.messages.create(max_tokens=7, **asked)
    assert (message.type, message.role, message.model) == ("message", "assistant", "claude-sonnet-4-5")
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 7)
    (block,) = message.content
    assert block.type == "text"
    counted = claude.messages.count_tokens(model=MODEL_NAME, messages=ASKED)
    cached = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + cached

    with claude.messages.stream(max_tokens=7, **asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert [one.text for one in streamed.content if one.type == "text"] == [block.text]
    assert streamed.stop_reason == "max_tokens"
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")

    stop = next(letter for letter in block.text if letter.isascii())
    stopped = claude.messages.create(max_tokens=7, stop_sequences=[stop], **asked)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    texts = "".join(one.text for one in stopped.content if one.type == "text")
    assert texts == block.text[: block.text.index(stop)]


def test_a_call_and_its_result(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL_NAME,
        "max_tokens": 300,
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    }
    message = claude.messages.create(messages=ASKED, **asked)
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.type == "tool_use"
    assert call.name == "weather"
    assert is_weather(call.input)

    with claude.messages.stream(messages=ASKED, **asked) as stream:
        last = stream.get_final_message().content[-1]
    assert last.type == "tool_use"
    assert is_weather(last.input)

    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny"}]}
    thanks = {"type": "text", "text": "Thanks."}
    turns = [*ASKED, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result, thanks]}]
    after = claude.messages.create(messages=turns, model=MODEL_NAME, max_tokens=5, tools=[TOOL])
    assert after.usage.output_tokens <= 5


def test_what_the_model_is_shown(http: httpx.Client, claude: anthropic.Anthropic) -> None:
    """A conversation of Anthropic's form becomes the same tokens as one of OpenAI's."""
    openai = [
        {"role": "system", "content": "Be brief."},
        *ASKED,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        {"role": "user", "content": "Thanks."},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "description": "Forecast", "parameters": WEATHER}}]
    prompt = http.post("/apply-template", json={"messages": openai, "tools": tools}).json()["prompt"]
    assert '"arguments": {"city": "Rome"}' in prompt
    counted = claude.messages.count_tokens(
        model=MODEL_NAME,
        system="Be brief.",
        tools=[TOOL],
        messages=[
            *ASKED,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "Sunny"},
                    {"type": "text", "text": "Thanks."},
                ],
            },
        ],
    )
    tokens = http.post("/tokenize", json={"prompt": prompt}).json()
    assert counted.input_tokens == tokens["count"]
    assert http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()["content"] == prompt


def test_errors_have_anthropic_s_form(claude: anthropic.Anthropic, server: RunningServer) -> None:
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model=MODEL_NAME, max_tokens=5, messages=[{"role": "user", "content": [image]}])
    assert refused.value.body["type"] == "error"  # type: ignore[index]
    assert "image" in refused.value.message
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="another", max_tokens=5, messages=ASKED)
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        claude.messages.create(
            model=MODEL_NAME,
            max_tokens=5,
            messages=ASKED,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )
    stranger = anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model=MODEL_NAME, max_tokens=5, messages=ASKED)


def test_ollama_chat(llama: ollama.Client) -> None:
    options = {"num_predict": 6, "temperature": 0, "num_ctx": 4096}
    whole = llama.chat(f"{MODEL_NAME}:latest", ASKED, options=options, keep_alive="5m")
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 6)
    assert whole.message.role == "assistant"
    parts = list(llama.chat(MODEL_NAME, ASKED, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].prompt_eval_count == whole.prompt_eval_count


def test_ollama_tools_and_schemas(llama: ollama.Client) -> None:
    answer = llama.chat(MODEL_NAME, ASKED, format=WEATHER, options={"num_predict": 300})
    assert is_weather(json.loads(answer.message.content or ""))
    call = ollama.Message.ToolCall(
        function=ollama.Message.ToolCall.Function(name="weather", arguments={"city": "Rome", "days": 1})
    )
    turns = [
        *ASKED,
        ollama.Message(role="assistant", tool_calls=[call]),
        ollama.Message(role="tool", content="Sunny", tool_name="weather"),
    ]
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    assert llama.chat(MODEL_NAME, turns, tools=[tool], options={"num_predict": 3}).eval_count


def test_ollama_generate(llama: ollama.Client) -> None:
    options = {"num_predict": 6, "temperature": 0}
    asked = llama.generate(MODEL_NAME, "What is the weather?", options=options)
    chat = llama.chat(MODEL_NAME, ASKED, options=options)
    assert asked.response == chat.message.content
    raw = llama.generate(MODEL_NAME, "What is", raw=True, options=options)
    assert (raw.prompt_eval_count or 0) < (asked.prompt_eval_count or 0)
    streamed = llama.generate(MODEL_NAME, "What is", raw=True, options=options, stream=True)
    assert "".join(part.response or "" for part in streamed) == raw.response
    assert llama.generate(MODEL_NAME, "").done_reason == "load"


def test_ollama_models(llama: ollama.Client) -> None:
    assert [model.model for model in llama.list().models] == [MODEL_NAME]
    assert [model.model for model in llama.ps().models] == [MODEL_NAME]
    assert "tools" in (llama.show(MODEL_NAME).capabilities or [])
    assert llama.pull(MODEL_NAME).status == "success"
    with pytest.raises(ollama.ResponseError, match="another") as missing:
        llama.show("another")
    assert missing.value.status_code == 404
    (vector,) = llama.embed(MODEL_NAME, "text").embeddings  # of the last token's hidden state
    assert sum(one * one for one in vector) == pytest.approx(1)


def test_tokens(http: httpx.Client) -> None:
    bare = http.post("/tokenize", json={"content": "hello world"}).json()["tokens"]
    pieces = http.post("/tokenize", json={"content": "hello world", "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == bare
    assert "".join(piece["piece"] for piece in pieces) == "hello world"
    assert http.get("/props").json()["default_generation_settings"]["n_ctx"] == 2048
    assert http.post("/tokenize", json={}).status_code == 400
