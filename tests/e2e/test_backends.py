"""The API before other engines: a fake one for what goes wrong, and a real llama-server where one is installed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.backends import fake_backend, setup_for
from kit.gguf_builder import TinyModel
from kit.http_server import RunningServer, eventually, serving

from rowspan.backends.choose import choose, open_backend
from rowspan.backends.native import NativeBackend
from rowspan.backends.process.child_backend import ChildBackend
from rowspan.backends.process.programs import find_llama_server
from rowspan.backends.protocol import Backend, BackendName, HealthState, LoadWatch, MissingBackendError, ModelFormat
from rowspan.config import BackendConfig, ServerConfig
from rowspan.errors import UnsupportedModelError, UsageError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
Serve = Callable[..., tuple[RunningServer, ChildBackend]]


@pytest.fixture
def serve(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts the API before a fake llama-server with what is to go wrong."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(**environment: str) -> tuple[RunningServer, ChildBackend]:
            for name, value in environment.items():
                monkeypatch.setenv(f"FAKE_{name}", value)
            backend = fake_backend(setup_for(tiny_path, tmp_path, context_size=512))
            backend.start(LoadWatch())
            stack.callback(backend.stop)
            return stack.enter_context(serving(backend, ServerConfig(max_waiting=1))), backend

        yield start


def test_the_api_is_the_same(serve: Serve) -> None:
    server, backend = serve()
    with server.client() as http:
        answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 3}).json()
        assert answer["choices"][0]["message"]["content"] == " one two three"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3
        several = http.post(COMPLETIONS, json={"prompt": ["hello", "world"], "n": 2, "max_tokens": 2, "echo": True})
        assert several.status_code == 200, several.text
        texts = [choice["text"] for choice in several.json()["choices"]]
        assert [text.endswith(" one two") for text in texts] == [True] * 4
        assert texts[0].startswith("hello")
        assert http.get("/v1/models").json()["data"][0]["max_model_len"] == backend.limits.context_size
        lines = http.post(CHAT, json={"messages": HELLO, "max_tokens": 3, "stream": True}).text.strip().split("\n\n")
        assert lines[-1] == "data: [DONE]"
        assert http.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"prompt": [5] * 2000}, "context_length_exceeded", "2000 tokens"),
        ({"prompt": [10**6]}, "invalid_request", "vocabulary"),
        ({"prompt": "a", "logit_bias": {"99999": 1}}, "invalid_request", "logit_bias"),
        ({"prompt": "a", "stop": [""]}, "invalid_request", "stop string"),
        ({"prompt": ""}, "invalid_request", "empty"),
        (
            {"prompt": "a", "stop_token_ids": [3]},
            "unsupported_by_backend",
            "also_stops cannot be had with --backend llamacpp",
        ),
        (
            {"prompt": "a", "bad_words": ["x"]},
            "unsupported_by_backend",
            "bad_texts cannot be had with --backend llamacpp",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_front(serve: Serve, body: dict[str, Any], code: str, words: str) -> None:
    server, _ = serve()
    with server.client() as http:
        response = http.post(COMPLETIONS, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    assert words in response.json()["error"]["message"]


def test_what_the_engine_refuses_is_told_in_its_words(serve: Serve) -> None:
    server, _ = serve(ANSWER="error")
    with server.client() as http:
        response = http.post(COMPLETIONS, json={"prompt": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "llama-server refuses the request. n_probs is too large"


@pytest.mark.parametrize("answer", ["nonsense", "garbage", "short"])
def test_an_engine_that_answers_nonsense(serve: Serve, answer: str, caplog: pytest.LogCaptureFixture) -> None:
    server, _ = serve(ANSWER=answer)
    with server.client() as http:
        response = http.post(COMPLETIONS, json={"prompt": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "backend_failed")
        assert "llama-server failed in the middle of a request" in caplog.text
        streamed = http.post(COMPLETIONS, json={"prompt": "a", "stream": True})
    if answer == "garbage":
        assert streamed.status_code == 503
    else:
        assert json.loads(streamed.text.strip().split("data: ")[-1])["error"]["type"] == "server_error"


def test_an_engine_that_dies_while_it_answers_is_restarted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, backend = serve(DIE="answer")
    monkeypatch.delenv("FAKE_DIE")
    with server.client() as http:
        streamed = http.post(COMPLETIONS, json={"prompt": "a", "stream": True}).text.strip().split("\n\n")
        assert '"text":" one"' in streamed[0]
        assert "backend_failed" in streamed[-1]
        assert eventually(lambda: backend.health().state != HealthState.READY)
        assert eventually(lambda: backend.health().state == HealthState.READY)
        assert http.post(COMPLETIONS, json={"prompt": "a"}).status_code == 200


def test_hanging_up_and_draining(serve: Serve) -> None:
    server, backend = serve(TOKEN_SECONDS="0.3")
    with server.client() as http, ThreadPoolExecutor() as pool:
        with http.stream("POST", COMPLETIONS, json={"prompt": "a", "stream": True}) as response:
            next(response.iter_lines())
        running = pool.submit(http.post, COMPLETIONS, json={"prompt": "a"})
        time.sleep(0.3)
        stopping = threading.Thread(target=backend.stop, kwargs={"drain_seconds": 20})
        stopping.start()
        time.sleep(0.1)
        assert http.post(COMPLETIONS, json={"prompt": "a"}).status_code == 503, "no more requests are taken"
        assert running.result().json()["choices"][0]["finish_reason"] == "length", "the running one is finished"
        stopping.join(10)
    assert not stopping.is_alive()
    assert not [child for child in psutil.Process().children() if "guardian" in " ".join(child.cmdline())]


def test_a_stop_without_patience_cuts_a_drain_short(serve: Serve) -> None:
    server, backend = serve(TOKEN_SECONDS="5")
    with server.client() as http, ThreadPoolExecutor() as pool:
        running = pool.submit(http.post, COMPLETIONS, json={"prompt": "a"})
        time.sleep(0.5)
        draining = pool.submit(backend.stop, drain_seconds=60)
        time.sleep(0.1)
        backend.stop()
        draining.result(10)
        assert running.result(10).status_code == 503


def test_a_model_that_cannot_be_loaded(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DIE", "load")
    backend = fake_backend(setup_for(tiny_path, tmp_path, context_size=512))
    with pytest.raises(Exception, match=r"(?s)while loading.*damaged"):
        backend.start(LoadWatch())
    assert backend.health().state == HealthState.FAILED


def test_auto_says_why(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = choose(None, setup_for(tiny_path, tmp_path))
    assert isinstance(native.backend, NativeBackend)
    assert native.reason
    strange = TinyModel(architecture="mamba").write(tmp_path / "strange.gguf")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedModelError) as refused:
        choose(None, setup_for(strange, tmp_path))
    assert "mamba" in str(refused.value)
    assert "pip install xllamacpp" in refused.value.fix, "what else could run it"
    folder = setup_for(tmp_path, tmp_path, format=ModelFormat.HF)
    with pytest.raises(MissingBackendError, match="vLLM"):
        choose(None, folder)
    with pytest.raises(UsageError, match="Hugging Face folder"):
        choose(BackendName.NATIVE, folder)
    with pytest.raises(UsageError, match="--backend-args"):
        choose(BackendName.NATIVE, setup_for(tiny_path, tmp_path, arguments="-fa on"))


# A real llama-server.


@pytest.fixture(scope="module")
def both(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningServer]]:
    """One model behind two engines."""
    from contextlib import ExitStack

    config = BackendConfig.from_env()
    try:
        find_llama_server(config)
    except MissingBackendError as error:
        pytest.skip(f"llama-server: {error.what} {error.fix}")
    setup = setup_for(smollm2_path, tmp_path_factory.mktemp("logs"), context_size=512, parallel=2)
    setup = type(setup)(setup.model, setup.engine, setup.given, BackendConfig((), config.llamacpp_folder))
    with ExitStack() as stack:
        found = {}
        for name in (BackendName.NATIVE, BackendName.LLAMACPP):
            backend: Backend = open_backend(name, setup)
            stack.callback(backend.stop)
            backend.start(LoadWatch())
            found[str(name)] = stack.enter_context(serving(backend, ServerConfig()))
        yield found


def ask(server: RunningServer, path: str, **body: Any) -> Any:
    with server.client() as http:
        response = http.post(path, json={"temperature": 0, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_real_engines_get_the_same_tokens_and_say_much_the_same(both: dict[str, RunningServer]) -> None:
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    native, llamacpp = (ask(server, CHAT, messages=question, max_tokens=8, logprobs=True) for server in both.values())
    assert native["usage"]["prompt_tokens"] == llamacpp["usage"]["prompt_tokens"]
    for answer in (native, llamacpp):
        assert answer["choices"][0]["message"]["content"].startswith("The")
        assert answer["usage"]["completion_tokens"] == 8
    pairs = zip(*(a["choices"][0]["logprobs"]["content"] for a in (native, llamacpp)), strict=True)
    (first, second) = next(pairs)
    assert first["bytes"] == second["bytes"]
    assert first["logprob"] == pytest.approx(second["logprob"], abs=0.2)


def test_a_real_engine_honours_the_fields(both: dict[str, RunningServer]) -> None:
    server = both["llamacpp"]
    text = ask(server, COMPLETIONS, prompt="One, two, three, four,", max_tokens=8)["choices"][0]["text"]
    assert "five" in text
    stopped = ask(server, COMPLETIONS, prompt="One, two, three, four,", max_tokens=8, stop=["six"])["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert "six" not in stopped["text"]
    long = ask(server, COMPLETIONS, prompt="The end.", max_tokens=50, ignore_eos=True)
    assert long["usage"]["completion_tokens"] == 50
    drawn = {"prompt": "Once", "max_tokens": 6, "temperature": 1.5, "seed": 7}
    assert len({ask(server, COMPLETIONS, **drawn)["choices"][0]["text"] for _ in range(2)}) == 1
    token = str(ask(server, COMPLETIONS, prompt="a", max_tokens=1)["usage"]["completion_tokens"] + 400)
    forced = ask(server, COMPLETIONS, prompt="Once", max_tokens=3, logit_bias={token: 100}, logprobs=1)
    assert len(set(forced["choices"][0]["logprobs"]["tokens"])) == 1


def test_a_real_engine_tells_what_its_cache_saved(both: dict[str, RunningServer]) -> None:
    prompt = list(range(1000, 1100))
    cached = [ask(both["llamacpp"], COMPLETIONS, prompt=prompt, max_tokens=2)["usage"] for _ in range(2)][1]
    assert cached["prompt_tokens_details"]["cached_tokens"] > 90


def test_a_real_engine_sleeps_and_wakes(both: dict[str, RunningServer]) -> None:
    import asyncio

    backend = both["llamacpp"].backend
    asyncio.run(backend.sleep())
    assert backend.health().state == HealthState.ASLEEP
    assert not [child for child in psutil.Process().children() if "guardian" in " ".join(child.cmdline())]
    asyncio.run(backend.wake())
    assert backend.health().state == HealthState.READY
    assert ask(both["llamacpp"], COMPLETIONS, prompt="a", max_tokens=2)["usage"]["completion_tokens"] == 2
