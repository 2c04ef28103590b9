"""What a server refuses: always OpenAI's error shape, the right status, and the field to blame."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.http_server import MODEL_NAME, RunningServer, serving
from starlette.routing import Route

from rowspan.backends.native import NativeBackend
from rowspan.config import ServerConfig
from rowspan.engine.engine import Engine
from rowspan.server.app import ROUTES
from rowspan.server.middleware import MAX_BODY_BYTES
from rowspan.server.service import Service

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
KEYS = frozenset({"first-key", "second-key"})


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert body["error"]["message"].endswith(".")
    error: dict[str, Any] = body["error"]
    return error


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"),
        ("temperature", True, "temperature"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", "5", "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("top_p", 1.5, "top_p"),
        ("n", 17, "n"),
        ("n", 0, "n"),
        ("stop", 5, "stop"),
        ("stop", ["a", 5], "stop[1]"),
        ("stop", [""], None),
        ("seed", 2**64, "seed"),
        ("logit_bias", [1], "logit_bias"),
        ("logit_bias", {"1": "x"}, "logit_bias.1"),
        ("top_logprobs", 21, "top_logprobs"),
        ("top_logprobs", 2, "top_logprobs"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("model", 5, "model"),
        ("messages", [], "messages"),
        ("messages", "hello", "messages"),
        ("messages", None, "messages"),
        ("messages", [{"content": "hello"}], "messages[0].role"),
        ("messages", [{"role": "pope", "content": "hello"}], "messages[0].role"),
        ("messages", [*HELLO, {"role": "user"}], "messages[1]"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[0].content[0].type",
        ),
        ("tools", [{"type": "function"}], "tools[0].function"),
        ("tools", [{"type": "custom", "function": {"name": "f"}}], "tools[0].type"),
        ("tool_choice", "required", "tool_choice"),
        ("functions", [{"name": "f"}], "functions"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "response_format"),
        ("modalities", ["text", "audio"], "modalities"),
        ("guided_json", {"uniqueItems": True}, "guided_json"),
        ("guided_regex", "(", "guided_regex"),
        ("grammar", "root ::= other", "grammar"),
        ("structured_outputs", {"json": {}, "regex": "a"}, "structured_outputs"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs"),
    ],
)
def test_wrong_fields_of_a_chat_are_named(http: httpx.Client, field: str, value: Any, param: str | None) -> None:
    error = refusal(http.post(CHAT, json={"messages": HELLO, field: value}), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    if param:
        assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, None),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [300, 10**6]}, None),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": ["a"] * 1025, "n": 2}, "prompt"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
    ],
)
def test_wrong_fields_of_a_completion_are_named(http: httpx.Client, fields: dict[str, Any], param: str | None) -> None:
    assert refusal(http.post(COMPLETIONS, json=fields), 400)["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL_NAME, prompt=[5] * 2048, stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert "2048" in refused.value.message


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-🙂", messages=HELLO)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert MODEL_NAME in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"nothing", b'"text"', b"[]", b"null", b"[" * 100_000, b'{"messages": "\xff"}', b"\x00"),
        *(b'{"max_tokens": ' + b"9" * 5000 + b"}", b'{"temperature": NaN, "messages": []}', b'{"a":1,}'),
    ],
)
def test_malformed_bodies(http: httpx.Client, body: bytes) -> None:
    refusal(http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)


def test_a_body_that_is_not_declared_as_json(http: httpx.Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = http.post(CHAT, content=json.dumps({"messages": HELLO}), headers={"content-type": content_type})
        assert "Content-Type: application/json" in refusal(response, 400)["message"]


def test_lone_surrogates_come_to_nothing_bad(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    chat = rb'{"messages": [{"role": "user", "content": "a\ud800b"}], "max_tokens": 2}'
    assert http.post(CHAT, content=chat, headers=headers).status_code == 200
    echo = rb'{"prompt": "a\ud800b", "echo": true, "max_tokens": 2}'
    assert http.post(COMPLETIONS, content=echo, headers=headers).status_code == 200
    refusal(http.post(CHAT, content=rb'{"messages": [{"role": "\ud800"}]}', headers=headers), 400)
    refusal(http.post(CHAT, content=chat.replace(b"{", rb'{"model": "\ud800",', 1), headers=headers), 404)


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    assert refusal(http.get("/v1/nothing"), 404)["code"] == "not_found"
    assert refusal(http.post("/v1/chat/completions/", json={}), 404)["code"] == "not_found"
    response = http.get(CHAT)
    assert refusal(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_large_bodies(http: httpx.Client) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    headers = {"content-type": "application/json"}
    assert refusal(http.post(CHAT, content=body, headers=headers), 413)["code"] == "request_too_large"
    chunks = (body[start : start + 2**20] for start in range(0, len(body), 2**20))
    refusal(http.post(CHAT, content=chunks, headers=headers), 413)


def test_texts_that_no_context_holds_are_refused_unread(
    http: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of characters take their time as tokens."""

    def encode(*_: object, **__: object) -> list[int]:
        raise AssertionError("it need not be read")

    monkeypatch.setattr(server.engine.tokenizer, "encode", encode)
    text = "a" * 500_000
    for path, body in ((CHAT, {"messages": [{"role": "user", "content": text}]}), (COMPLETIONS, {"prompt": text})):
        error = refusal(http.post(path, json=body), 400)
        assert error["code"] == "context_length_exceeded"
        assert "The prompt has at least " in error["message"]


def test_web_pages_of_others_are_kept_out(http: httpx.Client, server: RunningServer) -> None:
    body = {"messages": HELLO, "max_tokens": 1}
    assert http.post(CHAT, json=body, headers={"origin": server.url}).status_code == 200
    for origin in ("https://evil.example", "http://127.0.0.1:1", "http://[", "null"):
        assert refusal(http.post(CHAT, json=body, headers={"origin": origin}), 403)["code"] == "foreign_origin"
    rebound = {"origin": "http://evil.example:8000", "host": "evil.example:8000"}
    refusal(http.post(CHAT, json=body, headers=rebound), 403)
    assert http.post(CHAT, json=body, headers={"origin": "vscode-webview://1"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/", "/health", "/openapi.json", "/api/tags"])
def test_a_name_that_was_made_to_point_here_reads_nothing(http: httpx.Client, path: str) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[", "a.b."):
        refused = http.get(path, headers={"host": host})
        assert refused.status_code == 403
        assert "This server is not called" in refused.text
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "rig", "rig.local", "host.docker.internal:1", "10.1.2.3"):
        assert http.get(path, headers={"host": host}).status_code == 200


def test_names_of_a_proxy_and_of_a_network_are_let_through(tiny_engine: Engine) -> None:
    named = ServerConfig(cors_origins=frozenset({"https://llm.example"}))
    with serving(tiny_engine, named) as running, running.client() as http:
        assert http.get("/v1/models", headers={"host": "llm.example"}).status_code == 200
        assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    with serving(tiny_engine, ServerConfig(api_keys=KEYS)) as running, running.client() as http:
        assert http.get("/health", headers={"host": "llm.example"}).status_code == 200


def test_api_keys(tiny_engine: Engine) -> None:
    with serving(tiny_engine, ServerConfig(api_keys=KEYS)) as guarded, guarded.client() as http:
        body = {"messages": HELLO, "max_tokens": 1}
        for value in ("", "Bearer", "Bearer wrong", "Bearer first-key2", "Basic first-key", "first-key", "Bearer \xe9"):
            headers = [(b"authorization", value.encode("latin-1"))]
            for path in (CHAT, "/v1/nothing"):
                response = http.post(path, json=body, headers=headers)
                assert refusal(response, 401)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models").status_code == 401
        for path in ("/health", "/", "/console/api/session"):
            assert http.get(path).status_code == 200
        for key in KEYS:
            assert http.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"}).status_code == 200
        client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0)
        with client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_no_part_of_the_api_is_open_without_a_key(tiny_engine: Engine) -> None:
    config = ServerConfig(api_keys=KEYS)
    service = Service(NativeBackend(tiny_engine.blueprint, tiny_engine), config, MODEL_NAME)
    routes = [route for routes_of in ROUTES for route in routes_of(service).routes]
    known = [(route.path, min(route.methods or ())) for route in routes if isinstance(route, Route)]
    assert ("/embedding", "POST") in known
    with serving(tiny_engine, config) as guarded, guarded.client() as http:
        answers = {path: http.request(method, path.replace("{name:path}", "x")) for path, method in known}
    assert {path for path, answer in answers.items() if answer.status_code != 401} == {"/health"}


WRONG = 300_000  # items in a body
SOME = {"model": MODEL_NAME, "max_tokens": 3}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": [0] * WRONG + [-1]}),
        (COMPLETIONS, {"prompt": [1.5] * WRONG}),
        (COMPLETIONS, {"prompt": "a", "bad_words": [1] * WRONG}),
        (CHAT, {"messages": [0] * WRONG}),
        (CHAT, {"messages": [{"role": "user", "content": [0] * WRONG}]}),
        (CHAT, {"messages": HELLO, "tools": [0] * WRONG}),
        ("/completion", {"prompt": ["a"] * WRONG}),
        ("/completion", {"prompt": [1, "a"] * WRONG}),
        ("/completion", {"prompt": "a", "samplers": [1] * WRONG}),
        ("/completion", {"prompt": "a", "logit_bias": [1] * WRONG}),
        ("/infill", {"input_prefix": "a", "input_suffix": "", "input_extra": [0] * WRONG}),
        ("/v1/messages", {**SOME, "messages": [0] * WRONG}),
        ("/v1/messages", {**SOME, "messages": HELLO, "stop_sequences": [0] * WRONG}),
        ("/v1/responses", {"input": [0] * WRONG}),
        ("/api/chat", {"model": MODEL_NAME, "messages": [0] * WRONG}),
        ("/api/generate", {"model": MODEL_NAME, "prompt": "a", "context": ["x"] * WRONG}),
        ("/api/embed", {"model": MODEL_NAME, "input": [0] * WRONG}),
        ("/v1/rerank", {"query": "a", "documents": [0] * WRONG}),
        ("/detokenize", {"tokens": ["x"] * WRONG}),
    ],
)
def test_many_wrong_items_are_one_short_error_at_once(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """A complaint about each takes seconds, in which the server answers nobody."""
    sent, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    response, taken = None, []
    for _ in range(5):
        begin = time.process_time()
        response = http.post(path, content=sent, headers=headers)
        taken.append(time.process_time() - begin)
        if taken[-1] < 0.1:
            break
    assert response is not None
    assert response.status_code == 400
    assert len(response.content) < 1000
    assert min(taken) < 0.1, "reading the JSON takes 0.02 s of this"


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=4), inner, max_size=20),
    max_leaves=20,
)
ITEM = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.sampled_from(["role", "content"]), LEAVES)
LONG = st.builds(
    lambda item, n, others: [item] * n + others, ITEM, st.sampled_from([17, 300, 3000]), st.lists(JSON, max_size=2)
)
"""Lists of one item many times, and at most two others: longer than anything that is drawn item by item."""
FIELDS = ["messages", "model", "temperature", "stop", "logit_bias", "n", "seed", "stream", "top_logprobs", "prompt"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([CHAT, COMPLETIONS]),
    body=st.dictionaries(st.sampled_from(FIELDS), JSON | LONG, max_size=4) | JSON | LONG,
)
def test_no_json_breaks_the_server(http: httpx.Client, path: str, body: Any) -> None:
    response = http.post(path, json=body)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        refusal(response, response.status_code)


def test_web_pages_that_are_let_in(tiny_engine: Engine) -> None:
    page = {"origin": "https://app.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    body = {"messages": HELLO, "max_tokens": 1}
    for keys in (frozenset[str](), KEYS):
        config = ServerConfig(api_keys=keys, cors_origins=frozenset({"https://app.example"}))
        with serving(tiny_engine, config) as running, running.client() as http:
            preflight = http.options(CHAT, headers={**page, **asked})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == "https://app.example"
            key = {"authorization": f"Bearer {min(keys)}"} if keys else {}
            answer = http.post(CHAT, json=body, headers={**page, **key})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            others = http.post(CHAT, json=body, headers={"origin": "https://evil.example", **key})
            assert "access-control-allow-origin" not in others.headers
            assert others.status_code == (200 if keys else 403)


def test_clients_that_do_not_get_on_lose_their_connection(tiny_engine: Engine) -> None:
    """Whoever sends nothing, half a header, or a body that stops; and nobody who waits for an answer."""
    begun = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with serving(tiny_engine, ServerConfig(request_seconds=0.5)) as running:
        port = httpx.URL(running.url).port or 0
        ended = []
        for sent in (b"", begun, begun + b"content-length: 100\r\n\r\n{"):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.sendall(sent)
            ended.append(connection)
        with running.client() as http:
            body = {"messages": HELLO, "max_tokens": 1500, "ignore_eos": True}
            assert http.post(CHAT, json=body).json()["usage"]["completion_tokens"] == 1500
        answers = []
        for connection in ended:
            received = b""
            while part := connection.recv(1 << 16):
                received += part
            answers.append(received)
            connection.close()
    assert answers[:2] == [b"", b""]
    assert answers[2].startswith(b"HTTP/1.1 408")
    assert b"Nothing more of the request" in answers[2]
