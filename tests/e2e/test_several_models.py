"""Several models behind one address: any client names the one it wants."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually

HELLO = [{"role": "user", "content": "hello"}]


@contextmanager
def several(*arguments: str, key: str = "") -> Iterator[httpx.Client]:
    """`rowspan serve` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rowspan", "serve", "--port", str(port), "-c", "512", "-np", "2", "-t", "1"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as http:
                assert eventually(lambda: is_up(http, process), 30)
                yield http
        finally:
            process.terminate()
            process.communicate(timeout=30)


def is_up(http: httpx.Client, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    try:
        return http.get("/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def states(http: httpx.Client) -> dict[str, str]:
    return {model["id"]: model["state"] for model in http.get("/v1/models").json()["data"]}


def chat(http: httpx.Client, model: str | None, **fields: Any) -> httpx.Response:
    named = {} if model is None else {"model": model}
    body = {"messages": HELLO, "max_tokens": 32, "temperature": 0, "ignore_eos": True, **named, **fields}
    return http.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("one", "two", "three")):
        TinyModel(seed=number + 1, context_length=512).write(folder / f"{name}.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    return folder


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx.Client]:
    file = folder / "models.toml"
    file.write_text(
        f'[models.one]\nsource = "{folder}/one.gguf"\naliases = ["first"]\nctx-size = 256\n'
        f'[models.two]\nsource = "{folder}/two.gguf"\n'
        f'[models.three]\nsource = "{folder}/three.gguf"\n'
        f'[models.broken]\nsource = "{folder}/broken.gguf"\n'
    )
    with several("--models", str(file), "--max-loaded-models", "2") as http:
        assert eventually(lambda: states(http)["one"] == "loaded", 30), "the first model is loaded at once"
        yield http


def test_a_request_has_its_model_loaded_and_the_oldest_makes_room(http: httpx.Client) -> None:
    assert states(http)["two"] == "unloaded"
    texts = {name: chat(http, name).json()["choices"][0]["message"]["content"] for name in ("one", "two", "three")}
    assert len(set(texts.values())) == 3, "they are different models"
    assert states(http) == {"one": "unloaded", "two": "loaded", "three": "loaded", "broken": "unloaded"}
    for name, same in (("FIRST", "one"), ("One", "one"), ("one:latest", "one"), (None, "one"), ("", "one")):
        answer = chat(http, name).json()
        assert answer["model"] == same
        assert answer["choices"][0]["message"]["content"] == texts[same]


def test_errors_name_what_is_wrong(http: httpx.Client) -> None:
    unknown = chat(http, "other")
    assert unknown.status_code == 404
    assert "This server has one, two, three, broken" in unknown.json()["error"]["message"]
    broken = chat(http, "broken")
    assert broken.status_code == 503
    assert broken.json()["error"]["code"] == "model_load_failed"
    assert "It ends within its header" in broken.json()["error"]["message"]
    assert states(http)["broken"] == "failed"
    events = chat(http, "broken", stream=True).text.split("\n\n")
    assert events[0].startswith(": "), "a comment, while it was being loaded"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "model_load_failed"
    assert http.get("/health").json()["status"] == "ok"
    assert http.post("/v1/chat/completions", content=b"{").status_code == 400


def test_streams_begin_before_their_model_is_loaded(http: httpx.Client) -> None:
    http.post("/models/unload", json={"model": "two"})
    with http.stream(
        "POST", "/v1/chat/completions", json={"model": "two", "messages": HELLO, "stream": True}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == ": loading the model"
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["model"] == "two"


def test_loading_and_unloading_by_hand(http: httpx.Client) -> None:
    assert http.post("/models/load", json={"model": "three"}).json()["state"] == "loaded"
    assert http.post("/models/unload", json={"model": "three"}).json()["state"] == "unloaded"
    assert http.get("/v1/models/three").json()["state"] == "unloaded"
    assert http.post("/models/load", json={"model": "other"}).status_code == 404


def test_real_clients_name_their_models(http: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} == {"one", "two", "three", "broken"}
        for name in ("two", "three"):
            answer = client.completions.create(model=name, prompt="a", max_tokens=2)
            assert answer.model == name
    other = ollama.Client(str(http.base_url))
    assert other.chat("two", HELLO, options={"num_predict": 2}, keep_alive=0).done
    assert eventually(lambda: states(http)["two"] == "unloaded"), "keep_alive 0"
    other.generate("three:latest", "a", options={"num_predict": 2}, keep_alive="1s")
    assert "three" in {model.model for model in other.ps().models}
    assert eventually(lambda: states(http)["three"] == "unloaded", 5)
    assert {model.model for model in other.list().models} == {"one", "two", "three", "broken"}


def test_metrics_have_the_models_names(http: httpx.Client) -> None:
    chat(http, "one")
    lines = http.get("/metrics").text.splitlines()
    told = [line for line in lines if line.startswith("rowspan_generated_tokens_total")]
    assert any('model="one"' in line and float(line.rpartition(" ")[2]) >= 4 for line in told)
    assert sum(line.startswith("process_resident_memory_bytes") for line in lines) == 1


def test_clients_that_leave_while_models_change_leave_nothing_behind(http: httpx.Client) -> None:
    def leave(name: str) -> None:
        body = {"model": name, "messages": HELLO, "max_tokens": 200, "ignore_eos": True}
        with suppress(httpx.TimeoutException):
            httpx.post(f"{http.base_url}/v1/chat/completions", json=body, timeout=0.05)

    threads = [threading.Thread(target=leave, args=(name,)) for name in ("one", "two", "three") * 6]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    for name in ("one", "two", "three"):
        assert chat(http, name).status_code == 200
    assert sum(state == "loaded" for state in states(http).values()) == 2


def test_a_folder_and_keys(folder: Path) -> None:
    with several("--models-dir", str(folder), "--api-key", "secret", key="secret") as http:
        assert set(states(http)) == {"broken", "one", "three", "two"}
        assert chat(http, "three.gguf").json()["model"] == "three"
        for path in ("/v1/models", "/models", "/api/tags", "/metrics"):
            assert httpx.get(f"{http.base_url}{path}").status_code == 401, path
        assert httpx.post(f"{http.base_url}/models/unload", json={"model": "three"}).status_code == 401
        assert httpx.get(f"{http.base_url}/health").status_code == 200
