"""GET /metrics, read as Prometheus reads it, of the native engine and of another program's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.backends import fake_backend, setup_for
from kit.http_server import RunningServer, eventually, serving
from prometheus_client.parser import text_string_to_metric_families

from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import HealthState, LoadWatch
from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Fake = Callable[..., RunningServer]


@pytest.fixture
def native(tiny_engine: Engine) -> Iterator[RunningServer]:
    """The shared engine behind an app of its own, which has counted nothing yet."""
    with serving(tiny_engine, ServerConfig(max_waiting=0)) as running:
        yield running


@pytest.fixture
def fake(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """The same before a fake llama-server, with what is to go wrong."""
    with ExitStack() as stack:

        def start(**environment: str) -> RunningServer:
            for name, value in environment.items():
                monkeypatch.setenv(f"FAKE_{name}", value)
            backend = fake_backend(setup_for(tiny_path, tmp_path, context_size=512))
            backend.start(LoadWatch())
            stack.callback(backend.stop)
            return stack.enter_context(serving(backend, ServerConfig()))

        yield start


def scrape(http: httpx.Client, **headers: str) -> Samples:
    response = http.get("/metrics", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """None: absent."""
    return samples.get((f"rowspan_{name}", tuple(sorted(labels.items()))))


def names(samples: Samples) -> set[str]:
    return {name for name, _ in samples if name.startswith("rowspan_")}


def test_what_is_asked_and_answered_is_counted(native: RunningServer) -> None:
    with native.client() as http:
        before = scrape(http)
        assert value(before, "requests_running") == value(before, "requests_waiting") == 0
        assert value(before, "generated_tokens_total") == value(before, "time_to_first_token_seconds_count") == 0
        usages = [http.post(CHAT, json={"messages": HELLO, "max_tokens": 5}).json()["usage"]]
        body: dict[str, Any] = {"prompt": "the world", "n": 2, "max_tokens": 4}
        usages.append(http.post(COMPLETIONS, json=body).json()["usage"])
        body |= {"n": 1, "stream": True, "ignore_eos": True}
        assert http.post(COMPLETIONS, json=body).text.endswith("[DONE]\n\n")
        after = scrape(http)
        asked = {"endpoint": COMPLETIONS, "status": "200"}
        assert value(after, "http_requests_total", **asked) == 2
        assert value(after, "http_requests_total", endpoint="/metrics", status="200") == 1
        generated = sum(usage["completion_tokens"] for usage in usages) + 4
        assert value(after, "generated_tokens_total") == generated
        # Each of several answers to a prompt has it computed, or found in the cache, for itself.
        asked_for = usages[0]["prompt_tokens"] + 3 * usages[1]["prompt_tokens"]
        assert value(after, "prompt_tokens_total") == asked_for
        assert value(after, "time_to_first_token_seconds_count") == 4
        assert value(after, "inter_token_latency_seconds_count") == generated - 4
        assert value(after, "request_duration_seconds_count") == 4
        assert 0 < (value(after, "time_to_first_token_seconds_sum") or 0) < 60
        ended = [amount for (name, _), amount in after.items() if name == "rowspan_answers_total"]
        assert sum(ended) == 4
        assert value(after, "requests_running") == value(after, "requests_waiting") == 0


def test_a_native_engine_tells_of_its_cache(native: RunningServer) -> None:
    with native.client() as http:
        prompt = {"prompt": list(range(3, 3 + 100)), "max_tokens": 1}
        for _ in range(2):
            assert http.post(COMPLETIONS, json=prompt).status_code == 200
        told = scrape(http)
    stats = native.engine.stats()
    assert value(told, "kv_blocks") == stats.blocks_total > 0
    assert value(told, "kv_blocks_used") == 0
    assert value(told, "kv_blocks_cached") == stats.blocks_cached > 0
    assert value(told, "prefix_hit_tokens_total") == stats.prefix_hits >= 96
    assert value(told, "preemptions_total") == stats.preemptions
    assert ("process_resident_memory_bytes", ()) in told


def test_others_tell_the_same_but_what_they_do_not_know(native: RunningServer, fake: Fake) -> None:
    with native.client() as one, fake().client() as other:
        for http in (one, other):
            assert http.post(CHAT, json={"messages": HELLO, "max_tokens": 2}).status_code == 200
        ours, theirs = scrape(one), scrape(other)
    known = {"kv_blocks", "kv_blocks_used", "kv_blocks_cached", "prefix_hit_tokens_total", "preemptions_total"}
    known |= {"guessed_tokens_total", "right_guesses_total"}
    assert names(ours) - names(theirs) == {f"rowspan_{name}" for name in known}
    assert names(theirs) < names(ours)
    ((_, about),) = [key for key in theirs if key[0] == "rowspan_build_info"]
    assert dict(about)["backend"] == "llamacpp"
    assert dict(about)["model"] == "tiny"
    assert value(theirs, "generated_tokens_total") == 2  # each app counts for itself


def test_errors_are_counted_by_what_they_are(native: RunningServer) -> None:
    with native.client() as http:
        assert http.post(CHAT, json={"messages": HELLO, "model": "other"}).status_code == 404
        assert http.post(CHAT, content=b"{").status_code == 400
        assert http.post(COMPLETIONS, json={"prompt": [5] * 5000}).status_code == 400
        for number in range(3):
            assert http.get(f"/nowhere/{number}").status_code == 404
        assert http.get("/v1/models/other").status_code == 404
        assert http.delete(CHAT).status_code == 405
        counted = scrape(http)
    assert value(counted, "errors_total", code="model_not_found") == 2
    assert value(counted, "errors_total", code="invalid_request") == 1
    assert value(counted, "errors_total", code="context_length_exceeded") == 1
    assert value(counted, "errors_total", code="not_found") == 3
    assert value(counted, "http_requests_total", endpoint="other", status="404") == 3
    assert value(counted, "http_requests_total", endpoint="/v1/models/{name:path}", status="404") == 1
    assert value(counted, "http_requests_total", endpoint=CHAT, status="405") == 1
    assert value(counted, "answers_total", finish="error") == 1  # the one that was too long; others asked for none
    assert value(counted, "prompt_tokens_total") == 0


def test_an_error_in_the_middle_of_a_stream_is_counted(fake: Fake) -> None:
    server = fake(ANSWER="nonsense")
    with server.client() as http:
        assert http.post(COMPLETIONS, json={"prompt": "a", "stream": True}).status_code == 200
        counted = scrape(http)
    assert value(counted, "errors_total", code="backend_failed") == 1
    assert value(counted, "http_requests_total", endpoint=COMPLETIONS, status="200") == 1
    assert value(counted, "answers_total", finish="error") == 1
    assert value(counted, "request_duration_seconds_count") == 0


def test_what_runs_is_told_while_it_runs(fake: Fake) -> None:
    server = fake(TOKEN_SECONDS="0.3")
    with server.client() as http, server.client() as looking:
        with http.stream("POST", COMPLETIONS, json={"prompt": "a", "stream": True, "max_tokens": 50}) as response:
            lines = response.iter_lines()  # were it let go of, the client would hang up
            next(lines)
            assert value(scrape(looking), "requests_running") == 1
        assert eventually(lambda: value(scrape(looking), "requests_running") == 0)
        counted = scrape(looking)
    assert value(counted, "answers_total", finish="cancelled") == 1
    assert value(counted, "requests_waiting") == 0
    assert 0.2 < (value(counted, "inter_token_latency_seconds_sum") or 0.3) < 20


def test_looking_wakes_nothing(tiny_path: Path) -> None:
    backend = NativeBackend(make_blueprint(EngineConfig(tiny_path, split_mode=SplitMode.NONE, parallel=2, threads=1)))
    backend.start(LoadWatch())
    try:
        with serving(backend, ServerConfig(sleep_idle_seconds=0.3)) as server, server.client() as http:
            assert http.post(CHAT, json={"messages": HELLO, "max_tokens": 2}).status_code == 200
            awake = scrape(http)
            assert value(awake, "backend_state", state="ready") == 1
            assert eventually(lambda: backend.health().state == HealthState.ASLEEP)
            asleep = scrape(http)
            assert value(asleep, "backend_state", state="asleep") == 1
            assert value(asleep, "backend_state", state="ready") == 0
            assert value(asleep, "generated_tokens_total") == 2
            assert value(asleep, "kv_blocks") is None
            assert backend.health().state == HealthState.ASLEEP
    finally:
        backend.stop()


def test_it_takes_a_key_where_the_api_does(tiny_engine: Engine) -> None:
    """/health does not: it tells nothing of others."""
    with serving(tiny_engine, ServerConfig(api_keys=frozenset({"secret"}))) as server, server.client() as http:
        assert http.get("/health").status_code == 200
        assert http.get("/metrics").status_code == 401
        assert http.post(CHAT, json={"messages": HELLO}).status_code == 401
        counted = scrape(http, authorization="Bearer secret")
        assert value(counted, "http_requests_total", endpoint=CHAT, status="401") == 1
        assert value(counted, "errors_total", code="invalid_api_key") == 2


def test_openmetrics_for_those_who_read_it(native: RunningServer) -> None:
    with native.client() as http:
        response = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
