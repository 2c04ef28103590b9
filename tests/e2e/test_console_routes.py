"""What the console asks of its server: conversations by key, sign-in, the rig, models, benchmarks. Over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from kit.http_server import MODEL_NAME, RunningServer, eventually, serving
from kit.reciting_backend import RecitingBackend

from rowspan import hub
from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import LoadWatch
from rowspan.bench.results.fields import NAMES
from rowspan.bench.results.store import Store
from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.engine import Engine
from rowspan.errors import DownloadError
from rowspan.rig.check import CheckState
from rowspan.server import session

Json = dict[str, Any]
API = "/console/api"
KEYS = frozenset({"first-key", "second-key"})
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(tiny_engine: Engine) -> Iterator[RunningServer]:
    with serving(tiny_engine, ServerConfig(api_keys=KEYS)) as running:
        yield running


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@contextmanager
def sign_in(guarded: RunningServer, key: str) -> Iterator[httpx.Client]:
    """A browser that has been given a key."""
    with guarded.client(headers={"origin": guarded.url}) as client:
        assert client.post(session.PATH, json={"key": key}).status_code == 200
        yield client


def test_a_conversation_over_http(http: httpx.Client) -> None:
    here = f"{API}/conversations/c1"
    assert http.put(here, json={"title": "A <b>title</b>", "settings": {"temperature": 0}}).status_code == 200
    body: Json = {"parent": None, "role": "user", "content": "hello", "data": {"attachments": []}}
    assert http.put(f"{here}/messages/m1", json=body).status_code == 200
    assert http.put(here, json={"pinned": True}).status_code == 200
    found = http.get(here).json()
    assert (found["title"], found["pinned"], found["leaf"]) == ("A <b>title</b>", 1, "m1")
    assert http.get(f"{API}/conversations?search=hell").json()["conversations"][0]["found"] == "hello"
    for form, kind in (("md", "text/markdown"), ("json", "application/json")):
        exported = http.get(f"{here}/export?form={form}")
        assert exported.headers["content-type"].startswith(kind)
        assert exported.headers["content-disposition"].startswith("attachment")
    nan = b'{"role": "user", "content": "x", "data": {"a": NaN}}'
    assert http.put(f"{here}/messages/m2", content=nan, headers={"content-type": "application/json"}).status_code == 400
    everything = http.get(f"{API}/export").json()
    assert http.post(f"{API}/import", json=everything).json() == {"imported": len(everything["conversations"])}
    assert http.put(f"{API}/preferences/theme", json={"value": ["x"]}).status_code == 200
    assert http.get(f"{API}/preferences").json() == {"theme": ["x"]}
    assert http.delete(here).status_code == 200
    assert http.get(here).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/conversations/c1", {"title": "x" * 201}, 400),
        ("PUT", "/conversations/c1", {"pinned": "yes"}, 400),
        ("PUT", "/conversations/a%2F..%2Fb", {}, 404),
        ("PUT", "/conversations/" + "x" * 65, {}, 400),
        ("PUT", "/conversations/none/messages/m", {"role": "user", "content": "x"}, 404),
        ("PUT", "/conversations/c1/messages/m", {"role": "system", "content": "x"}, 400),
        ("PUT", "/preferences/big", {"value": "x" * (1 << 20)}, 400),
        ("POST", "/import", {"nothing": 1}, 400),
        ("POST", "/pulls", {"name": "/etc/passwd"}, 400),
        ("DELETE", "/models?path=/etc/passwd", None, 404),
        ("GET", "/plan?model=nothing&rigs=2xW7900", None, 404),
        ("GET", "/plan?model=qwen3-8b&rigs=2xNothing", None, 400),
        ("GET", "/bench/compare?before=1&after=2", None, 400),
        ("POST", "/bench/job", {"prompt": "512; rm"}, 400),
        ("POST", "/bench/job", {"devices": "--model=/etc/passwd"}, 400),
    ],
)
def test_refusals(http: httpx.Client, tmp_path: Path, method: str, path: str, body: Any, status: int) -> None:
    with patch.dict("os.environ", {"ROWSPAN_BENCH_DB": str(tmp_path / "bench.sqlite")}):
        refused = http.request(method, API + path, json=body)
    assert refused.status_code == status
    assert refused.json()["error"]["message"]


def test_keys_are_asked_for(guarded: RunningServer) -> None:
    with guarded.client() as http:
        for path in ("/conversations", "/rig", "/now", "/models", "/bench", "/doctor", "/export"):
            assert http.get(API + path).status_code == 401
        assert http.get(session.PATH).json() == {"needs_key": True, "signed_in": False}
        assert http.post(session.PATH, json={"key": "wrong"}, headers={"origin": guarded.url}).status_code == 401
        assert http.post(session.PATH, json={"key": "first-key"}, headers={"origin": "http://evil"}).status_code == 401


def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use(guarded: RunningServer) -> None:
    with sign_in(guarded, "first-key") as http:
        cookie = http.post(session.PATH, json={"key": "first-key"}).headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
        assert "secure" not in cookie, "the server speaks plain HTTP"
        assert "first-key" not in cookie
        assert http.get(session.PATH).json() == {"needs_key": True, "signed_in": True}
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        for headers in ({"origin": "http://evil.example"}, {"origin": f"{guarded.url}0"}, {"origin": "null"}):
            assert http.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 401
        del http.headers["origin"]
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 401, "browsers always say where from"
        assert http.get(f"{API}/conversations").status_code == 200
        http.headers["origin"] = guarded.url
        assert http.delete(session.PATH).status_code == 200
        assert http.get(f"{API}/conversations").status_code == 401


def test_cookies_end(guarded: RunningServer) -> None:
    with sign_in(guarded, "second-key") as http:
        until, _, signature = http.cookies[session.COOKIE].partition(".")
        with patch.object(time, "time", return_value=int(until) + 1.0):
            assert http.get(f"{API}/conversations").status_code == 401
        for forged in (
            f"{int(until) + 1}.{signature}",
            f"{until}.{'0' * 64}",
            f"{until}.",
            "x",
            "",
            f"{'9' * 40}.x",
            "².",
        ):
            with guarded.client() as other:
                headers = [(b"cookie", f"{session.COOKIE}={forged}".encode())]
                assert other.get(f"{API}/conversations", headers=headers).status_code == 401
        assert http.get(f"{API}/conversations").status_code == 200


def test_every_key_has_its_own_conversations(guarded: RunningServer) -> None:
    with sign_in(guarded, "first-key") as one, sign_in(guarded, "second-key") as two:
        one.put(f"{API}/conversations/private", json={"title": "mine"})
        assert two.get(f"{API}/conversations/private").status_code == 404
        assert "private" not in str(two.get(f"{API}/conversations").json())
        with guarded.client(headers={"authorization": "Bearer first-key"}) as bearer:
            assert bearer.get(f"{API}/conversations/private").json()["title"] == "mine"


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_answer_that_goes_on_keeps_its_first_space(goes_on: bool) -> None:
    """A parser of reasoning skips space before an answer, but what goes on is no new answer."""
    backend = RecitingBackend()
    backend.text = " and the rest"
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "This"}]
    body = {"messages": said, "continue_final_message": True, "add_generation_prompt": False} if goes_on else CHAT
    with serving(backend, ServerConfig(reasoning_parser="think")) as running, running.client() as http:
        told = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert told.startswith(" and" if goes_on else "and")


def test_the_rig(http: httpx.Client) -> None:
    rig = http.get(f"{API}/rig").json()
    (holding,) = rig["plan"]["holdings"]
    assert holding["device"] == "cpu:0"
    assert holding["layers"]["start"] == 0
    assert rig["machine"]["cpu"]["cores"] >= 1
    now = http.get(f"{API}/now").json()
    assert now["state"] == "ready"
    assert 0 < now["memory"]["free"] <= now["memory"]["total"] == rig["machine"]["memory"]
    assert now["scheduler"]["blocks_total"] > 0
    checks = http.get(f"{API}/doctor").json()["checks"]
    assert checks
    assert {check["state"] for check in checks} <= set(CheckState)


def test_recent_requests(guarded: RunningServer) -> None:
    """What was asked of the API, without the console's own questions, and without a word of what was said."""
    secret = "tell nobody"
    body = {**CHAT, "messages": [{"role": "user", "content": secret}]}
    with guarded.client(headers={"authorization": "Bearer first-key"}) as http:
        http.post("/v1/chat/completions", json=body)
        http.post("/v1/chat/completions", json={**body, "temperature": -1})
        http.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer wrong"})
        http.get(f"{API}/conversations")
        answer = http.get(f"{API}/requests")
        told = [(one["path"], one["status"], one["error"]) for one in answer.json()["requests"][:3]]
    chat = "/v1/chat/completions"
    assert told == [(chat, 401, "invalid_api_key"), (chat, 400, "invalid_request"), (chat, 200, None)]
    assert secret not in answer.text
    assert API not in answer.text


def test_sleep_and_wake(tiny_path: Path) -> None:
    backend = NativeBackend(make_blueprint(EngineConfig(tiny_path, parallel=1, cache_tokens=256, threads=1)))
    backend.start(LoadWatch())
    try:
        with serving(backend, ServerConfig()) as running, running.client() as http:
            assert http.post(f"{API}/sleep").json() == {"state": "asleep"}
            assert http.get(f"{API}/now").json()["state"] == "asleep"
            assert http.get(f"{API}/rig").json()["model"] == MODEL_NAME
            assert http.post(f"{API}/wake").json() == {"state": "ready"}
            http.post(f"{API}/sleep")
            assert http.post("/v1/chat/completions", json=CHAT).status_code == 200, "a request wakes it, too"
    finally:
        backend.stop()


def test_models_and_plans(http: httpx.Client) -> None:
    listing = http.get(f"{API}/models").json()
    assert any(entry["name"] == hub.DEFAULT_MODEL for entry in listing["catalog"])
    metadata = http.get(f"{API}/models/metadata").json()["metadata"]
    assert metadata["general.architecture"] == "llama"
    assert str(metadata["tokenizer.ggml.tokens"]).endswith("values")
    names = http.get(f"{API}/plan/names").json()
    assert "qwen3-8b" in names["models"]
    advice = http.get(f"{API}/plan", params={"model": "qwen3-8b:Q8_0", "rigs": "2xW7900DS,1xRTX 4090"}).json()
    assert [rig["fits"] for rig in advice["rigs"]] == [True, True]
    assert advice["model"]["quantization"] == "Q8_0"
    own = http.get(f"{API}/plan", params={"model": "tiny", "rigs": "1xRTX 4090", "context": 1024}).json()
    assert own["rigs"][0]["fits"]


def test_pulls(http: httpx.Client) -> None:
    seen: list[str] = []

    def fetch(name: str, *, progress: Any) -> None:
        seen.append(name)
        progress.start("file", 10)
        progress.advance_to(5)
        if name == "smollm2:360m":
            raise DownloadError("It is gone.")

    def state() -> list[tuple[str, str, int]]:
        pulls = http.get(f"{API}/pulls").json()["pulls"]
        return [(pull["name"], pull["state"], pull["done"]) for pull in pulls]

    with patch.object(hub, "resolve", fetch):
        for name in ("smollm2:360m", "qwen3:0.6b"):
            http.post(f"{API}/pulls", json={"name": name})
        expected = [("smollm2:360m", "failed", 5), ("qwen3:0.6b", "done", 5)]
        assert eventually(lambda: state() == expected), state()
        assert http.get(f"{API}/pulls").json()["pulls"][0]["error"] == "It is gone."
        http.post(f"{API}/pulls", json={"name": "smollm2:360m"})
        assert eventually(lambda: len(seen) == 3), "what failed is tried again"


@pytest.mark.heavy
def test_a_benchmark_is_started_watched_and_stopped(tiny_path: Path, tmp_path: Path) -> None:
    backend = NativeBackend(make_blueprint(EngineConfig(tiny_path, parallel=1, cache_tokens=256, threads=1)))
    backend.start(LoadWatch())
    work = {"prompt": "32", "generated": "0", "split_mode": "none", "repetitions": 2}
    environment = {"ROWSPAN_BENCH_DB": str(tmp_path / "bench.sqlite")}
    try:
        with (
            patch.dict("os.environ", environment),
            serving(backend, ServerConfig()) as running,
            running.client() as http,
        ):

            def state() -> Json:
                return dict(http.get(f"{API}/bench/job").json()["job"])

            assert http.get(f"{API}/bench/job").json()["job"] is None
            assert http.post(f"{API}/bench/job", json={**work, "prompt": "512; rm"}).status_code == 400
            assert http.post(f"{API}/bench/job", json=work).status_code == 200
            assert http.post(f"{API}/bench/job", json=work).status_code == 400, "one at a time"
            assert http.get(f"{API}/now").json()["state"] == "asleep"
            assert eventually(lambda: not state()["running"], 60)
            assert state()["error"] is None
            assert [row["test"] for row in state()["rows"]] == ["pp32"]
            assert len(http.get(f"{API}/bench").json()["runs"]) == 1
            http.post(f"{API}/bench/job", json={**work, "repetitions": 100, "prompt": "64,128,256"})
            assert http.delete(f"{API}/bench/job").status_code == 200
            assert eventually(lambda: not state()["running"], 20)
            assert state()["stopped"]
            assert state()["error"] is None
    finally:
        backend.stop()


def test_benchmarks(http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "bench.sqlite"
    with patch.dict("os.environ", {"ROWSPAN_BENCH_DB": str(path)}):
        assert http.get(f"{API}/bench").json() == {"runs": []}
        assert not path.exists(), "looking makes no file"
        row = dict.fromkeys(NAMES) | {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "engine": "native", "avg_ts": 100.0}
        with Store(path) as store:
            for run, rate in ((1, 100.0), (2, 110.0)):
                store.add({**row, "run_id": run, "samples_ts": [rate, rate + 1, rate + 2, rate + 3]})
            store.add({**row, "run_id": 1, "n_gen": 128, "n_prompt": 0, "samples_ts": [1.0]})
        runs = http.get(f"{API}/bench").json()["runs"]
        assert [(run["run"], [one["test"] for one in run["rows"]]) for run in runs] == [
            (2, ["pp512"]),
            (1, ["pp512", "tg128"]),
        ]
        compared = http.get(f"{API}/bench/compare?before=1&after=2").json()
        ((pair,), (alone,)) = compared["pairs"], compared["alone"]
        assert pair["verdict"] == "same"
        assert pair["change"]["ratio"] == pytest.approx(1.1, abs=0.02)
        assert alone["test"] == "tg128"
