"""llama-server's own API, and what fills in the middle of a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import RunningServer, eventually, serving

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine

GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert "[DONE]" not in lines, "its own API has none"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_completion_is_the_one_of_openais_api(http: httpx.Client, path: str) -> None:
    body = {"prompt": "one two", "n_predict": 12, **GREEDY}
    whole = http.post(path, json=body).json()
    theirs = http.post("/v1/completions", json={"prompt": "one two", "max_tokens": 12, **GREEDY}).json()
    assert whole["content"] == theirs["choices"][0]["text"]
    assert (whole["stop"], whole["stop_type"], whole["tokens_predicted"]) == (True, "limit", 12)
    assert whole["tokens_evaluated"] == theirs["usage"]["prompt_tokens"]
    assert whole["prompt"] == "one two"
    assert whole["generation_settings"]["temperature"] == 0
    assert whole["timings"]["predicted_n"] == 12
    parts = events(http, path, body)
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]


def test_prompts_of_ids_and_texts(http: httpx.Client) -> None:
    def text(prompt: object) -> str:
        told: str = http.post("/completion", json={"prompt": prompt, "n_predict": 8, **GREEDY}).json()["content"]
        return told

    ids = http.post("/tokenize", json={"content": "one two", "add_special": True}).json()["tokens"]
    assert text("one two") == text(ids) == text([*ids[:-1], ids[-1]]) == text(["one two"])
    more = http.post("/tokenize", json={"content": " three"}).json()["tokens"]
    assert text([*ids, " three"]) == text([*ids, *more])


def test_stop_words_probabilities_and_grammars(http: httpx.Client) -> None:
    body = {"prompt": "one two", "n_predict": 12, **GREEDY}
    plain = http.post("/completion", json=body).json()["content"]
    stopped = http.post("/completion", json={**body, "stop": [plain[3:5]]}).json()
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", plain[3:5])
    assert stopped["content"] == plain[: plain.index(plain[3:5])]
    told = http.post("/completion", json={**body, "n_probs": 2, "n_predict": 3, "return_tokens": True}).json()
    assert [one["id"] for one in told["completion_probabilities"]] == told["tokens"]
    for one in told["completion_probabilities"]:
        assert len(one["top_logprobs"]) == 2
        assert one["logprob"] == max(other["logprob"] for other in one["top_logprobs"])
    grammar = http.post("/completion", json={**body, "ignore_eos": False, "grammar": 'root ::= "yes" | "no"'}).json()
    assert grammar["content"] in ("yes", "no")
    assert grammar["stop_type"] == "eos"
    settings = http.post("/completion", json={"prompt": "a", "n_predict": 1}).json()["generation_settings"]
    assert [settings[name] for name in ("temperature", "top_k", "top_p", "min_p")] == [0.8, 40, 0.95, 0.05]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/completion", {}, "prompt"),
        ("/completion", {"prompt": 5}, "prompt"),
        ("/completion", {"prompt": "a", "image_data": [{"data": "x"}]}, "image_data"),
        ("/completion", {"prompt": "a", "post_sampling_probs": True}, "post_sampling_probs"),
        ("/completion", {"prompt": "a", "mirostat": 2}, "mirostat"),
        ("/completion", {"prompt": "a", "samplers": ["min_p", "top_k"]}, "samplers"),
        ("/completion", {"prompt": "a", "samplers": ["top_k", "infill"]}, "samplers"),
        ("/completion", {"prompt": "a", "samplers": "kk"}, "samplers"),
        ("/completion", {"prompt": "a", "logit_bias": [[1, 2, 3]]}, "logit_bias"),
        ("/completion", {"prompt": "a", "logit_bias": [["hello", 1]]}, "logit_bias"),
        ("/completion", {"prompt": "a", "logit_bias": [[5, True]]}, "logit_bias"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_prefix"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
    ],
)
def test_refusals_name_the_field(http: httpx.Client, path: str, body: dict[str, Any], field: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400, response.text
    assert field in response.json()["error"]["param"]


def test_only_the_samplers_that_are_named_are_applied(http: httpx.Client) -> None:
    def settings(samplers: Any) -> dict[str, Any]:
        body = {"prompt": "a", "n_predict": 1, "repeat_penalty": 1.5, "min_p": 0.2, "samplers": samplers}
        told: dict[str, Any] = http.post("/completion", json=body).json()["generation_settings"]
        return told

    for all_of_them in (None, "edskypmxt", ["penalties", "dry", "top_k", "typical-p", "top_p", "min_p", "xtc", "temp"]):
        told = settings(all_of_them)
        assert [told[name] for name in ("top_k", "top_p", "min_p", "temperature")] == [40, 0.95, 0.2, 0.8]
        assert told["repeat_penalty"] == 1.5
    for two_of_them in ("mt", ["min_p", "temperature"]):
        told = settings(two_of_them)
        assert [told[name] for name in ("top_k", "top_p", "min_p", "temperature")] == [0, 1.0, 0.2, 0.8]
        assert told["repeat_penalty"] == 1.0
    assert settings([])["temperature"] == 1.0


def test_biases_as_pairs(http: httpx.Client) -> None:
    def tokens(biases: object) -> list[int]:
        body = {"prompt": "one two", "n_predict": 6, "return_tokens": True, "logit_bias": biases, **GREEDY}
        told: list[int] = http.post("/completion", json=body).json()["tokens"]
        return told

    plain = tokens([])
    assert tokens([[65, 100]]) == tokens({"65": 100}) == [65] * 6
    assert plain[0] not in tokens([[plain[0], False]])


def test_slots_and_the_tokenizer(http: httpx.Client) -> None:
    slots = http.get("/slots").json()
    assert [slot["is_processing"] for slot in slots] == [False] * 4

    def working() -> int:
        """Slots at work while an answer is written, unless it ended before they were asked for."""
        asked = {"prompt": "a", "n_predict": 2000, "stream": True, **GREEDY}
        with http.stream("POST", "/completion", json=asked) as answer:
            next(answer.iter_lines())
            return sum(slot["is_processing"] for slot in http.get("/slots").json())

    assert eventually(lambda: working() == 1)
    props = http.get("/props").json()
    assert (props["total_slots"], props["eos_token"], props["is_sleeping"]) == (4, "<|im_end|>", False)
    assert props["default_generation_settings"]["params"]["top_k"] == 40
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"
    assert "message" in info["chat_template"]


def test_truncated_prompts(http: httpx.Client) -> None:
    prompt = list(range(10, 60))
    for kept, expected in ((5, 5), (500, 50), (0, 50), (None, 50)):
        body = {"prompt": prompt, "max_tokens": 1, "truncate_prompt_tokens": kept}
        assert http.post("/v1/completions", json=body).json()["usage"]["prompt_tokens"] == expected
    long = {"prompt": prompt * 100, "max_tokens": 1}
    assert http.post("/v1/completions", json=long).status_code == 400
    fits = http.post("/v1/completions", json={**long, "truncate_prompt_tokens": -1})
    assert fits.json()["usage"]["prompt_tokens"] == 2047
    chat = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 1, "truncate_prompt_tokens": 3}
    assert http.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"] == 3


MARKERS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")


def test_filling_in_the_middle(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = TinyModel().metadata()
    tokens = [*plain["tokenizer.ggml.tokens"], *MARKERS]
    types = np.array([*plain["tokenizer.ggml.token_type"], *[3] * len(MARKERS)], np.int32)
    extra = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    path = TinyModel(vocab_size=len(tokens), extra=extra).write(tmp_path_factory.mktemp("fim") / "m.gguf")
    body = {"n_predict": 6, **GREEDY}
    with (
        Engine.open(EngineConfig(path, parallel=2, cache_tokens=2048)) as engine,
        serving(engine, ServerConfig()) as running,
        running.client() as http,
    ):
        asked = {"input_prefix": "def f(", "input_suffix": "return x", "prompt": "x", **body}
        told = http.post("/infill", json=asked).json()
        prompt = "<|fim_prefix|>def f(x<|fim_suffix|>return x<|fim_middle|>"
        assert told["prompt"] == prompt
        same = http.post("/completion", json={"prompt": prompt, **body}).json()
        assert told["content"] == same["content"]
        openai = http.post("/v1/completions", json={"prompt": "def f(x", "suffix": "return x", **body}).json()
        assert openai["choices"][0]["text"] == told["content"]
        other = {"filename": "a.py", "text": "x = 1"}
        told = http.post("/infill", json={**asked, "input_extra": [other]}).json()
        assert told["prompt"] == f"<|file_sep|>a.py\nx = 1\n{prompt}"
