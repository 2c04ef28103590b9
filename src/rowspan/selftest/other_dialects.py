"""Behaviours of Anthropic's, Ollama's and llama-server's APIs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rowspan.selftest.behaviour import SHOWN, Behaviour, Target, need

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]

BEHAVIOURS: list[Behaviour] = []


def _behaviour(dialect: str, name: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    def add(run: Callable[[Target], None]) -> Callable[[Target], None]:
        BEHAVIOURS.append(Behaviour(dialect, name, run))
        return run

    return add


@_behaviour("Anthropic", "a message, with its usage and reason")
def _message(target: Target) -> None:
    answer = target.post(MESSAGES, {"model": target.model, "messages": HELLO, "max_tokens": 16, "temperature": 0})
    need(answer["type"] == "message" and answer["role"] == "assistant", f"it answers {str(answer)[:SHOWN]}")
    need(answer["stop_reason"] in ("end_turn", "max_tokens"), f"the reason is {answer['stop_reason']!r}")
    need(0 < answer["usage"]["output_tokens"] <= 16, f"usage is {answer['usage']}")


@_behaviour("Anthropic", "a stream's events in their order")
def _message_stream(target: Target) -> None:
    body = {"model": target.model, "messages": HELLO, "max_tokens": 8, "stream": True}
    names = [name for name, _ in target.events(MESSAGES, body) if name != "ping"]
    need(names[0] == "message_start", f"the first event is {names[0]!r}")
    need(names[-2:] == ["message_delta", "message_stop"], f"the last events are {names[-2:]}")
    need(names.count("content_block_start") == names.count("content_block_stop"), "blocks do not end")


@_behaviour("Anthropic", "tokens are counted as they are used")
def _count(target: Target) -> None:
    counted = target.post(f"{MESSAGES}/count_tokens", {"model": target.model, "messages": HELLO})["input_tokens"]
    used = target.post(MESSAGES, {"model": target.model, "messages": HELLO, "max_tokens": 1})["usage"]
    cached = (used.get("cache_read_input_tokens") or 0) + (used.get("cache_creation_input_tokens") or 0)
    need(counted == used["input_tokens"] + cached, f"counted {counted}, used {used}")


@_behaviour("Anthropic", "a tool that must be used is used")
def _tool(target: Target) -> None:
    tool = {
        "name": "get_time",
        "description": "The time.",
        "input_schema": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
    }
    body = {
        "model": target.model,
        "messages": HELLO,
        "max_tokens": 300,
        "tools": [tool],
        "temperature": 0,
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    answer = target.post(MESSAGES, body)
    uses = [block for block in answer["content"] if block["type"] == "tool_use"]
    need(uses and uses[0]["input"].get("zone") in ("UTC", "CET"), f"it answers {str(answer['content'])[:SHOWN]}")
    need(answer["stop_reason"] == "tool_use", f"the reason is {answer['stop_reason']!r}")


@_behaviour("Ollama", "version and models")
def _tags(target: Target) -> None:
    need(target.get("/api/version")["version"], "there is no version")
    names = [model["name"] for model in target.get("/api/tags")["models"]]
    need(any(name.startswith(target.model) for name in names), f"it lists {', '.join(names)[:SHOWN]}")


@_behaviour("Ollama", "a chat streams by default, one object a line, and says what the whole answer says")
def _ollama_chat(target: Target) -> None:
    options = {"temperature": 0, "num_predict": 16}
    body: dict[str, Any] = {"model": target.model, "messages": HELLO, "options": options}
    lines = target.lines("/api/chat", body)
    need(lines[-1]["done"] and not any(line["done"] for line in lines[:-1]), "only the last line is done")
    need(lines[-1]["eval_count"] > 0, f"the last line is {str(lines[-1])[:SHOWN]}")
    whole = target.post("/api/chat", {**body, "stream": False})["message"]["content"]
    told = "".join(line["message"]["content"] for line in lines)
    need(told == whole, f"the stream says {told[:60]!r}, the whole answer {whole[:60]!r}")


@_behaviour("Ollama", "generate, and a format that is a schema")
def _generate(target: Target) -> None:
    properties = {"ok": {"type": "boolean"}}
    options = {"temperature": 0}
    schema = {"type": "object", "properties": properties, "required": ["ok"], "additionalProperties": False}
    asked = {"prompt": "Is water wet?", "format": schema, "stream": False}
    body = {"model": target.model, "options": options, **asked}
    text = target.post("/api/generate", body)["response"]
    need(isinstance(json.loads(text)["ok"], bool), f"it answers {text[:SHOWN]}")


@_behaviour("Ollama", "embeddings, one for each text")
def _embed(target: Target) -> None:
    body = {"model": target.embedder, "input": ["A cat.", "A dog."]}
    vectors = target.post_to_special("/api/embed", body)["embeddings"]
    need(len(vectors) == 2 and len(vectors[0]) == len(vectors[1]) > 1, "there are not two")


@_behaviour("llama-server", "text to tokens and back")
def _tokenize(target: Target) -> None:
    text = "Hello, 你好 🙂\n\tdef f(x): return x ** 2"
    tokens = target.post("/tokenize", {"content": text, "add_special": False})["tokens"]
    back = target.post("/detokenize", {"tokens": tokens})
    told = back.get("content", back.get("prompt"))
    need(told == text, f"it comes back as {told!r}")


@_behaviour("llama-server", "the template, applied")
def _template(target: Target) -> None:
    prompt = target.post("/apply-template", {"messages": HELLO})["prompt"]
    need(HELLO[0]["content"] in prompt, f"it is {prompt[:SHOWN]!r}")


@_behaviour("llama-server", "completion, with its own fields")
def _completion(target: Target) -> None:
    answer = target.post("/completion", {"prompt": "One two three", "n_predict": 4, "temperature": 0})
    need(answer["content"] and answer["tokens_predicted"] <= 4, f"it answers {str(answer)[:SHOWN]}")
    need(answer["stop"] is True and "timings" in answer, f"it answers {str(answer)[:SHOWN]}")


@_behaviour("llama-server", "props and health")
def _props(target: Target) -> None:
    need(target.get("/props").get("default_generation_settings") is not None, "settings are missing")
    need(target.get("/health")["status"] == "ok", "it is not well")
