"""/v1/chat/completions over real HTTP, with OpenAI's own client."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest
from kit.http_server import MODEL_NAME, RunningServer

from rowspan.engine.engine import Engine
from rowspan.scheduler.request import SamplingParams

QUESTION: list[Any] = [{"role": "user", "content": "What is the world of the hello?"}]


def expected(engine: Engine, messages: list[dict[str, Any]], max_tokens: int, **params: Any) -> str:
    """The answer, straight from the engine."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, **params)
    return "".join(piece.text for piece in engine.generate(engine.encode_chat(messages), sampling))


def test_answers_as_the_engine_does(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.chat.completions.create(model=MODEL_NAME, messages=QUESTION, temperature=0, max_tokens=20)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL_NAME
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == expected(server.engine, QUESTION, 20)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    prompt_tokens = len(server.engine.encode_chat(QUESTION))
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt_tokens, 20, prompt_tokens + 20)


def test_usage_tells_what_the_cache_saved(client: openai.OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "Has this been asked before? " * 12}]
    first, again = (
        client.chat.completions.create(model=MODEL_NAME, messages=question, temperature=0, max_tokens=2).usage
        for _ in range(2)
    )
    assert first is not None
    assert again is not None
    assert first.prompt_tokens_details is not None
    assert again.prompt_tokens_details is not None
    assert (first.prompt_tokens_details.cached_tokens or 0) < 32 <= (again.prompt_tokens_details.cached_tokens or 0)


def test_a_stream_says_the_same(client: openai.OpenAI, server: RunningServer) -> None:
    chunks = list(
        client.chat.completions.create(messages=QUESTION, model=MODEL_NAME, temperature=0, max_tokens=30, stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(server.engine, QUESTION, 30)
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert chunks[0].choices[0].delta.content, "the role comes with the first content, not before it"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_the_raw_stream(server: RunningServer) -> None:
    body = {"messages": QUESTION, "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    with server.client() as http:
        response = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc-1"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == "abc-1"
    assert "tool_calls" not in response.text
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_in_every_chunk(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=MODEL_NAME,
        messages=QUESTION,
        temperature=0,
        max_tokens=6,
        stream=True,
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert len(counts) > 2


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: openai.OpenAI, server: RunningServer, stream: bool) -> None:
    whole = expected(server.engine, QUESTION, 40)
    stop = whole[12:15]
    request: dict[str, Any] = {"model": MODEL_NAME, "messages": QUESTION, "temperature": 0, "max_tokens": 40}
    answer: Any = client.chat.completions.create(**request, stop=["never there", stop], stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish = chunks[-1].choices[0].finish_reason
    else:
        text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text == whole[: whole.index(stop)]
    assert finish == "stop"


def test_several_choices_have_their_own_seeds(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL_NAME,
        "messages": QUESTION,
        "max_tokens": 12,
        "temperature": 2.0,
        "extra_body": {"ignore_eos": True},
    }
    several = client.chat.completions.create(**request, seed=7, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    second = client.chat.completions.create(**request, seed=8)
    assert second.choices[0].message.content == texts[1]
    assert several.usage is not None
    assert several.usage.completion_tokens == 36
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**request, seed=7, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.chat.completions.create(
        model=MODEL_NAME,
        messages=QUESTION,
        temperature=0,
        max_tokens=10,
        logprobs=True,
        top_logprobs=4,
        stream=stream,
    )
    parts = list(answer) if stream else [answer]
    tokens = [token for part in parts for token in part.choices[0].logprobs.content]
    if stream:
        text = "".join(part.choices[0].delta.content or "" for part in parts)
    else:
        text = answer.choices[0].message.content
    assert len(tokens) == 10
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == text
    for token in tokens:
        likeliest = [other.logprob for other in token.top_logprobs]
        assert len(likeliest) == 4
        assert likeliest == sorted(likeliest, reverse=True)
        assert token.logprob == likeliest[0], "greedy decoding takes the likeliest token"
        assert sum(map(math.exp, likeliest)) <= 1 + 1e-6


def test_logit_bias_and_its_limits(client: openai.OpenAI, server: RunningServer) -> None:
    token = server.engine.tokenizer.encode("hello", add_special=False)[0]
    answer = client.chat.completions.create(
        model=MODEL_NAME, messages=QUESTION, temperature=0, max_tokens=4, logit_bias={str(token): 100}
    )
    assert answer.choices[0].message.content == "hello" * 4
    for bias in ({"x": 1}, {"99999999": 1}, {str(token): 101}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=MODEL_NAME, messages=QUESTION, logit_bias=bias)
        assert (refused.value.param or "").startswith("logit_bias")


def test_ways_to_write_a_conversation(client: openai.OpenAI, server: RunningServer) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "someone"},
        {"role": "assistant", "content": "Hi"},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "tool", "content": "42"},
    ]
    answer = client.chat.completions.create(model=MODEL_NAME, messages=messages, temperature=0, max_completion_tokens=8)
    assert answer.choices[0].message.content == expected(server.engine, plain, 8)


def test_null_and_neutral_and_unknown_fields_change_nothing(server: RunningServer) -> None:
    body = {"messages": QUESTION, "temperature": 0, "max_tokens": 8}
    neutral = {
        "tools": [],
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "repetition_penalty": 1.0,
        "top_k": -1,
        "reasoning_effort": "low",
        "some_new_field": {"a": 1},
        **dict.fromkeys(("functions", "stop", "n", "seed", "top_p", "stream", "model", "logprobs")),
    }
    with server.client() as http:
        plain, padded = (http.post("/v1/chat/completions", json=each).json() for each in (body, {**body, **neutral}))
    assert padded["choices"] == plain["choices"]


def test_without_a_limit_the_answer_may_fill_the_context(server: RunningServer) -> None:
    room = 20
    overhead = len(server.engine.encode_chat([{"role": "user", "content": ""}]))
    prompt = "z" * (server.engine.context_size - overhead - room)  # a token each
    with server.client() as http:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "ignore_eos": True}
        answer = http.post("/v1/chat/completions", json=body).json()
        clipped = http.post("/v1/chat/completions", json={**body, "max_tokens": 10**9}).json()
    for each in (answer, clipped):
        assert each["choices"][0]["finish_reason"] == "length"
        assert each["usage"]["completion_tokens"] == room


def test_an_answer_without_a_word(client: openai.OpenAI, server: RunningServer) -> None:
    end = {str(next(iter(server.engine.tokenizer.end_ids))): 100}
    request: dict[str, Any] = {"model": MODEL_NAME, "messages": QUESTION, "temperature": 0, "logit_bias": end}
    answer = client.chat.completions.create(**request)
    assert answer.choices[0].message.content == ""
    assert answer.choices[0].finish_reason == "stop"
    (chunk,) = client.chat.completions.create(**request, stream=True)
    assert (chunk.choices[0].delta.role, chunk.choices[0].finish_reason) == ("assistant", "stop")
