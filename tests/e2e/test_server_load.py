"""Clients that hang up, too many clients, and an engine that dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import psutil
import pytest
from kit.http_server import RunningServer, eventually, serving

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

CHAT = "/v1/chat/completions"
PARALLEL, MAX_WAITING = 4, 3  # of the shared server
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True}  # seconds of work


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def test_hanging_up_on_a_stream_stops_it(server: RunningServer) -> None:
    before = server.engine.stats().generated_tokens
    with server.client() as http, http.stream("POST", CHAT, json={**LONG, "stream": True, "n": 3}) as response:
        arriving = events(response)
        assert next(arriving)["choices"]
        assert eventually(lambda: server.engine.stats().running == 3), "the later answers join after the first's prompt"
    assert eventually(server.is_idle, seconds=5)
    assert server.engine.stats().generated_tokens - before < server.engine.context_size / 2


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_before_the_answer_stops_it(server: RunningServer, stream: bool, n: int) -> None:
    """Also while some of the answers still wait for their turn."""
    before = server.engine.stats().generated_tokens
    with server.client() as http:
        request = http.build_request("POST", CHAT, json={**LONG, "stream": stream, "n": n, "stop": ["never"]})
        with ThreadPoolExecutor() as pool:
            pending = pool.submit(lambda: http.send(request, stream=True).read())
            assert eventually(lambda: server.engine.stats().generated_tokens > before + 20)
            drop_connections(http)
            assert eventually(server.is_idle, seconds=5)
            assert server.engine.stats().generated_tokens - before < server.engine.context_size / 2
            with pytest.raises(httpx.TransportError):
                pending.result()


def drop_connections(http: httpx.Client) -> None:
    """As a client does that is killed: its sockets close under it."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == http.base_url.port:
            with socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def test_too_many_requests_are_told_to_come_back(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        http = stack.enter_context(server.client())
        pool = stack.enter_context(ThreadPoolExecutor())
        streams = [
            pool.submit(lambda: stack.enter_context(http.stream("POST", CHAT, json={**LONG, "stream": True})))
            for _ in range(PARALLEL)
        ]
        running = [stream.result() for stream in streams]
        waiting = [pool.submit(http.post, CHAT, json={**LONG, "max_tokens": 3}) for _ in range(MAX_WAITING)]
        assert eventually(lambda: server.engine.stats().waiting == MAX_WAITING)
        refused = http.post(CHAT, json=LONG)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        encode = Mock(return_value=[1])
        monkeypatch.setattr(server.engine.tokenizer, "encode", encode)
        assert http.post(CHAT, json={"messages": [{"role": "user", "content": "long " * 10_000}]}).status_code == 429
        assert http.post("/v1/completions", json={"prompt": "long " * 10_000}).status_code == 429
        assert not encode.called, "load is shed before it is worked on"
        monkeypatch.undo()
        assert http.get("/health").status_code == 200
        for response in running:
            response.close()
        assert [response.result().status_code for response in waiting] == [200] * MAX_WAITING
    assert eventually(server.is_idle)


def test_prompts_that_become_tokens_count_as_waiting(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    template = server.engine.template
    assert template is not None
    render = template.render

    def slow(*arguments: Any, **options: Any) -> str:
        begun.set()
        assert go_on.wait(30)
        return render(*arguments, **options)

    short = {"messages": LONG["messages"], "max_tokens": 1}
    with server.client() as http, ThreadPoolExecutor() as pool, monkeypatch.context() as patched:
        patched.setattr(template, "render", slow)
        first = pool.submit(http.post, CHAT, json={**short, "n": PARALLEL + MAX_WAITING})
        assert begun.wait(30)
        assert http.post(CHAT, json=short).status_code == 429
        go_on.set()
        assert first.result().status_code == 200
        assert http.post(CHAT, json=short).status_code == 200, "and no longer than they are made"
    assert eventually(server.is_idle)


def test_an_engine_that_dies(tiny_path: Path) -> None:
    """Before the first token: 503. After it: an error event. And the next request finds new workers."""
    before = psutil.Process().children()
    with (
        Engine.open(EngineConfig(tiny_path, split_mode=SplitMode.NONE, parallel=2, threads=1)) as engine,
        serving(engine, ServerConfig()) as server,
        server.client() as http,
        ThreadPoolExecutor() as pool,
    ):
        with http.stream("POST", CHAT, json={**LONG, "stream": True}) as response:
            arriving = events(response)
            assert next(arriving)["choices"]
            whole = pool.submit(http.post, CHAT, json=LONG)
            assert eventually(lambda: engine.stats().running == 2)
            (worker,) = (child for child in psutil.Process().children() if child not in before)
            os.kill(worker.pid, signal.SIGKILL)
            *_, last = arriving
            assert last["error"]["type"] == "server_error"
            assert last["error"]["code"] == "engine_unavailable"
        assert whole.result().status_code == 503
        assert "rank" not in whole.result().text, "what happened inside is for the log"
        assert http.post(CHAT, json={**LONG, "max_tokens": 2}).status_code == 200
        engine.close()
        refused = http.post(CHAT, json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")


def test_one_slow_reader_does_not_hold_up_others(server: RunningServer) -> None:
    with server.client() as http, http.stream("POST", CHAT, json={**LONG, "stream": True}):
        assert http.post(CHAT, json={**LONG, "max_tokens": 5}).status_code == 200
        assert server.engine.stats().running == 1
    assert eventually(server.is_idle, seconds=5)
