"""/v1/completions, /v1/models and /health over real HTTP."""

from __future__ import annotations

import random
import re
from typing import Any

import httpx
import openai
import pytest
from kit.http_server import MODEL_NAME, RunningServer
from kit.single_rank import SingleRank

from rowspan.scheduler.request import SamplingParams


def expected(server: RunningServer, prompt: str, max_tokens: int) -> str:
    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    tokens = server.engine.tokenizer.encode(prompt)
    return "".join(piece.text for piece in server.engine.generate(tokens, params, continuation=True))


def test_continues_a_text(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.completions.create(model=MODEL_NAME, prompt="hello the", temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == expected(server, "hello the", 16), "16 tokens where nothing is said"
    assert answer.choices[0].finish_reason == "length"
    chunks = list(client.completions.create(model=MODEL_NAME, prompt="hello the", temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_prompts_of_every_kind(client: openai.OpenAI, server: RunningServer) -> None:
    texts = ["hello the", "a world"]
    token_ids = [server.engine.tokenizer.encode(text) for text in texts]
    answers = [expected(server, text, 6) for text in texts]
    request: dict[str, Any] = {"model": MODEL_NAME, "temperature": 0, "max_tokens": 6}
    for prompt in (texts, token_ids):
        several = client.completions.create(**request, prompt=prompt)
        assert [choice.text for choice in several.choices] == answers
        assert [choice.index for choice in several.choices] == [0, 1]
        assert several.usage.prompt_tokens == sum(map(len, token_ids))
        assert several.usage.completion_tokens == 12
    assert client.completions.create(**request, prompt=token_ids[1]).choices[0].text == answers[1]
    twice = client.completions.create(**request, prompt=texts, n=2, best_of=2)
    assert [choice.text for choice in twice.choices] == [answers[0]] * 2 + [answers[1]] * 2


def test_echo(client: openai.OpenAI, server: RunningServer) -> None:
    request: dict[str, Any] = {"model": MODEL_NAME, "temperature": 0, "max_tokens": 3, "echo": True}
    whole = "hello the" + expected(server, "hello the", 3)
    assert client.completions.create(**request, prompt="hello the").choices[0].text == whole
    token_ids = server.engine.tokenizer.encode("hello the")
    assert client.completions.create(**request, prompt=token_ids).choices[0].text == whole
    streamed = client.completions.create(**request, prompt="hello the", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole


@pytest.mark.parametrize("stream", [False, True])
def test_legacy_logprobs(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.completions.create(
        model=MODEL_NAME,
        prompt="hello",
        max_tokens=12,
        logprobs=2,
        temperature=3.0,
        seed=1,
        stream=stream,
    )
    parts = list(answer) if stream else [answer]
    text = "".join(part.choices[0].text for part in parts)
    logprobs = [part.choices[0].logprobs for part in parts]
    tokens = [token for part in logprobs for token in part.tokens]
    values = [value for part in logprobs for value in part.token_logprobs]
    tops = [top for part in logprobs for top in part.top_logprobs]
    offsets = [offset for part in logprobs for offset in part.text_offset]
    assert len(tokens) == len(values) == len(tops) == len(offsets) == 12
    for token, value, top in zip(tokens, values, tops, strict=True):
        assert top[token] == value
        assert 2 <= len(top) <= 3
        assert all(value <= other for name, other in top.items() if name != token) or value == max(top.values())
    for token, offset in zip(tokens, offsets, strict=True):
        if not re.match(r"bytes:|<\|", token):
            assert text[offset : offset + len(token)] == token


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL_NAME, "model", "rowspan")
    assert client.models.retrieve(MODEL_NAME) == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("another/model")
    assert refused.value.code == "model_not_found"


def test_health_and_schema_and_page(server: RunningServer) -> None:
    with server.client() as http:
        assert http.get("/health").json() == {"status": "ok"}
        paths = http.get("/openapi.json").json()["paths"]
        assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health"} <= set(paths)
        page = http.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assets = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
        assert any(path.endswith(".js") for path in assets)
        assert any(path.endswith(".css") for path in assets)
        for path in assets:
            assert_served(http.get(path))


def assert_served(response: httpx.Response) -> None:
    assert response.status_code == 200
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_prompt(client: openai.OpenAI, server: RunningServer, stream: bool) -> None:
    """As lm-eval asks for them, of several prompts, one longer than a block; the same as scoring them directly."""
    rng = random.Random(1)
    prompts = [[rng.randrange(260) for _ in range(length)] for length in (70, 3, 1)]
    answer: Any = client.completions.create(
        model=MODEL_NAME, prompt=prompts, max_tokens=1, logprobs=2, echo=True, temperature=0, seed=1, stream=stream
    )
    parts = list(answer) if stream else [answer]
    scorer = SingleRank(server.engine.blueprint.config.model_path)
    for index, prompt in enumerate(prompts):
        told = [choice.logprobs for part in parts for choice in part.choices if choice.index == index]
        values = [value for one in told for value in one.token_logprobs]
        tops = [top for one in told for top in one.top_logprobs]
        assert len(values) == len(tops) == len(prompt) + 1
        assert values[0] is None
        assert tops[0] is None
        expected = scorer.logits(prompt).log_softmax(-1)
        assert values[1:-1] == pytest.approx(
            [float(expected[i, prompt[i + 1]]) for i in range(len(prompt) - 1)], abs=0.02
        )
        assert values[-1] == pytest.approx(float(expected[-1].max()), abs=0.02)
        for top, row in zip(tops[1:-1], expected, strict=False):
            assert max(top.values()) == pytest.approx(float(row.max()), abs=0.02)


def test_tokens_that_end_an_answer(client: openai.OpenAI, server: RunningServer) -> None:
    asked: dict[str, Any] = {"model": MODEL_NAME, "prompt": [5, 6, 7], "temperature": 0, "max_tokens": 8}
    usual = client.completions.create(**asked, logprobs=0).choices[0]
    params = SamplingParams(max_tokens=8, temperature=0)
    chosen = [piece.tokens[0].token for piece in server.engine.generate([5, 6, 7], params)]
    stop = chosen[3]
    for extra in ({}, {"ignore_eos": True}):
        body = {"stop_token_ids": [stop], **extra}
        ended = client.completions.create(**asked, logprobs=0, extra_body=body).choices[0]
        assert ended.finish_reason == "stop"
        assert ended.logprobs.tokens == usual.logprobs.tokens[: chosen.index(stop)]
    end = max(server.engine.tokenizer.end_ids)
    asked |= {"logit_bias": {str(end): 100}}
    assert client.completions.create(**asked).usage.completion_tokens == 1
    late = client.completions.create(**asked, extra_body={"min_tokens": 5})
    assert (late.usage.completion_tokens, late.choices[0].finish_reason) == (6, "stop")


def test_limits_in_other_words(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL_NAME, "prompt": "hello"}
    body = {"n_predict": 3, "ignore_eos": True}
    assert client.completions.create(**asked, seed=-1, extra_body=body).usage.completion_tokens == 3
    assert client.completions.create(**asked, max_tokens=-1, extra_body={"ignore_eos": True}).usage.total_tokens > 100
    for wrong in (0, -2):
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(**asked, max_tokens=wrong)


def test_samplers_of_llama_cpp_and_vllm_are_honoured(server: RunningServer) -> None:
    with server.client() as http:
        check_samplers(http)


def check_samplers(http: httpx.Client) -> None:
    def text(**fields: Any) -> str:
        asked = {"prompt": "a a", "max_tokens": 24, "seed": 5, "ignore_eos": True, **fields}
        response = http.post("/v1/completions", json=asked)
        assert response.status_code == 200, response.text
        told: str = response.json()["choices"][0]["text"]
        return told

    plain = text(temperature=0)
    letter = next(letter for letter in reversed(plain) if letter.isascii())
    assert text(temperature=0, bad_words=[letter]) != plain
    assert text(temperature=0, dry_multiplier=50, dry_allowed_length=1, dry_sequence_breakers=[]) != plain
    assert text(temperature=0, dry_multiplier=0.0) == plain
    assert text(temperature=2.0, top_n_sigma=1e-6) == plain, "none but the likeliest is left"
    assert text(temperature=0, xtc_probability=1.0, xtc_threshold=0.0001) != plain
    assert text(temperature=1.0, typical_p=0.5) == text(temperature=1.0, typical_p=0.5)
    assert text(temperature=0, repeat_penalty=3.0, repeat_last_n=0) == plain
    hot = text(temperature=1.0, dynatemp_range=1.0)
    assert hot == text(temperature=1.0, dynatemp_range=1.0, dynatemp_exponent=1.0)
    assert hot != text(temperature=1.0)
    for field, value in (("mirostat", 2), ("allowed_token_ids", [1]), ("chat_template", "x")):
        refused = http.post("/v1/completions", json={"prompt": "a", field: value})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field


@pytest.mark.parametrize("stream", [False, True])
def test_what_ends_an_answer_and_what_steers_it_can_be_shown(
    client: openai.OpenAI, server: RunningServer, stream: bool
) -> None:
    """A stop string that is a special token, and vLLM's fields."""
    start, end = (server.engine.tokenizer.encode(text)[-1] for text in ("<|im_start|>", "<|im_end|>"))

    def told(**fields: Any) -> tuple[str, str]:
        asked: dict[str, Any] = {"model": MODEL_NAME, "prompt": "hello", "max_tokens": 6, "temperature": 0}
        answer: Any = client.completions.create(**asked, stream=stream, extra_body=fields)
        choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        return "".join(choice.text for choice in choices), choices[-1].finish_reason

    plain, _ = told(ignore_eos=True)
    piece = plain[1:3]
    assert told(stop=piece, ignore_eos=True) == (plain[: plain.index(piece)], "stop")
    shown = told(stop=[piece], ignore_eos=True, include_stop_str_in_output=True)
    assert shown == (plain[: plain.index(piece)] + piece, "stop")

    steers = {"logit_bias": {str(start): 100}, "ignore_eos": True}
    assert told(**steers) == ("", "length")
    assert told(**steers, skip_special_tokens=False) == (6 * "<|im_start|>", "length")
    assert told(**steers, stop=["never", "<|im_start|>"]) == ("", "stop")
    assert told(**steers, stop=["<|im_start|>"], include_stop_str_in_output=True) == ("<|im_start|>", "stop")

    ends = {"logit_bias": {str(end): 100}}
    assert told(**ends, skip_special_tokens=False) == ("", "stop")
    assert told(**ends, skip_special_tokens=False, include_stop_str_in_output=True) == ("<|im_end|>", "stop")
    assert told(**ends, include_stop_str_in_output=True, priority=-1) == ("", "stop")
