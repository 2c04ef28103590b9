"""Behaviours of OpenAI's API, and of what vLLM and llama-server added to it.

https://platform.openai.com/docs/api-reference; what clients send, and where servers commonly fail them.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from rowspan.selftest.behaviour import SHOWN, Behaviour, Target, need

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
MOST_TOKENS = 24
ONE_CALL = {"parallel_tool_calls": False, "max_tokens": 300}

BEHAVIOURS: list[Behaviour] = []


def _behaviour(name: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    def add(run: Callable[[Target], None]) -> Callable[[Target], None]:
        BEHAVIOURS.append(Behaviour("OpenAI", name, run))
        return run

    return add


def _chat(target: Target, **fields: Any) -> dict[str, Any]:
    body = {"model": target.model, "messages": HELLO, "max_tokens": MOST_TOKENS, "temperature": 0, **fields}
    return target.post(CHAT, body)


def _text(answer: Mapping[str, Any], choice: int = 0) -> str:
    message = answer["choices"][choice]["message"]
    return (message.get("reasoning_content") or "") + (message.get("content") or "")


def _complete(target: Target, prompt: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": target.model, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
    return target.post(COMPLETIONS, body)


@_behaviour("the list of models names the one that is asked for")
def _models(target: Target) -> None:
    ids = [model["id"] for model in target.get("/v1/models")["data"]]
    need(target.model in ids, f"it lists {', '.join(ids)[:SHOWN]}")


@_behaviour("an answer's usage adds up")
def _usage(target: Target) -> None:
    usage = _chat(target)["usage"]
    need(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"usage is {usage}")
    need(0 < usage["completion_tokens"] <= MOST_TOKENS, f"usage is {usage}, of at most {MOST_TOKENS}")


@_behaviour("a stream says what the whole answer says, ends with a reason, then [DONE]")
def _stream(target: Target) -> None:
    body = {"model": target.model, "messages": HELLO, "max_tokens": MOST_TOKENS, "temperature": 0, "stream": True}
    events = [data for _, data in target.events(CHAT, body)]
    need(events[-1] == "[DONE]", f"its last event is {events[-1][:SHOWN]}")
    chunks = [json.loads(data) for data in events[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    told = "".join((delta.get("reasoning_content") or "") + (delta.get("content") or "") for delta in deltas)
    whole = _text(_chat(target))
    need(told == whole, f"the stream says {told[:60]!r}, the whole answer {whole[:60]!r}")
    reasons = [chunk["choices"][0].get("finish_reason") for chunk in chunks if chunk["choices"]]
    need(reasons[-1] in ("stop", "length"), f"the last chunk's finish_reason is {reasons[-1]!r}")
    need(not any("tool_calls" in delta and delta["tool_calls"] is None for delta in deltas), "tool_calls is null")


@_behaviour("usage comes in a stream when asked for: last, and without choices")
def _stream_usage(target: Target) -> None:
    body = {"model": target.model, "messages": HELLO, "max_tokens": 4, "stream": True}
    plain = [json.loads(data) for _, data in target.events(CHAT, body) if data != "[DONE]"]
    need(all(chunk["choices"] for chunk in plain), "a chunk without choices came unasked")
    asked = {**body, "stream_options": {"include_usage": True}}
    last = [json.loads(data) for _, data in target.events(CHAT, asked) if data != "[DONE]"][-1]
    need(last["choices"] == [] and last["usage"]["completion_tokens"] > 0, f"the last chunk is {str(last)[:SHOWN]}")


@_behaviour("max_tokens and max_completion_tokens are kept, and told as the reason")
def _most_tokens(target: Target) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        body = {"model": target.model, "messages": HELLO, "ignore_eos": True, field: 3}
        answer = target.post(CHAT, body)
        need(answer["usage"]["completion_tokens"] == 3, f"{field} 3 gave {answer['usage']['completion_tokens']} tokens")
        reason = answer["choices"][0]["finish_reason"]
        need(reason == "length", f"the reason is {reason!r}")


@_behaviour("a stop string ends the answer, and is no part of it")
def _stop(target: Target) -> None:
    prompt = "Once upon a time, there was a"
    text = _complete(target, prompt, max_tokens=16)["choices"][0]["text"]
    need(len(text) >= 4, f"the model says only {text!r}, which has no room for one")
    wanted = text[2:4]
    answer = _complete(target, prompt, max_tokens=16, stop=[wanted])["choices"][0]
    need(answer["text"] == text[: text.index(wanted)], f"with stop {wanted!r} it says {answer['text']!r}")
    need(answer["finish_reason"] == "stop", f"the reason is {answer['finish_reason']!r}")


@_behaviour("a seed gives the same text twice")
def _seed(target: Target) -> None:
    once, again = (_text(_chat(target, temperature=1.0, seed=7)) for _ in range(2))
    need(once == again, f"{once[:60]!r}, then {again[:60]!r}")


@_behaviour("n gives so many answers, and each its number")
def _n(target: Target) -> None:
    numbers = [choice["index"] for choice in _chat(target, n=3, temperature=1.0, max_tokens=4)["choices"]]
    need(sorted(numbers) == [0, 1, 2], f"n 3 gave {numbers}")


@_behaviour("log-probabilities of an answer: each token, with alternatives")
def _logprobs(target: Target) -> None:
    answer = _chat(target, logprobs=True, top_logprobs=3, max_tokens=4, ignore_eos=True)
    told = answer["choices"][0]["logprobs"]["content"]
    need(len(told) == 4, f"{len(told)} of 4 tokens have one")
    for one in told:
        need(one["logprob"] <= 1e-6 and len(one["top_logprobs"]) == 3, f"a token's is {str(one)[:SHOWN]}")
        best = max(alternative["logprob"] for alternative in one["top_logprobs"])
        need(abs(best - one["logprob"]) < 1e-3, "a greedy token is not the likeliest")


@_behaviour("echo tells the prompt's log-probabilities, as lm-eval scores by")
def _echo(target: Target) -> None:
    answer = _complete(target, "The cat sat on the mat", max_tokens=1, echo=True, logprobs=1)
    told = answer["choices"][0]["logprobs"]["token_logprobs"]
    prompt = answer["usage"]["prompt_tokens"]
    need(len(told) == prompt + 1, f"{len(told)} tokens have one, of a prompt of {prompt} and one more")
    need(all(value is not None for value in told[1:]), "some have none")


@_behaviour("several prompts in one request, each answered as if alone")
def _several(target: Target) -> None:
    prompts = ["One two three", "Red green blue"]
    alone = [_complete(target, prompt)["choices"][0]["text"] for prompt in prompts]
    choices = sorted(_complete(target, prompts)["choices"], key=lambda choice: int(choice["index"]))
    need([choice["text"] for choice in choices] == alone, "their answers differ")


@_behaviour("a prompt of token ids means the text that they are of")
def _ids(target: Target) -> None:
    text = "The cat sat on the"
    ids = target.post("/tokenize", {"model": target.model, "prompt": text, "content": text, "add_special": True})
    told = _complete(target, ids["tokens"])["choices"][0]["text"]
    need(told == _complete(target, text)["choices"][0]["text"], f"it answers {told!r}")


@_behaviour("logit_bias of -100 forbids a token, of 100 forces it")
def _bias(target: Target) -> None:
    ids = target.post("/tokenize", {"model": target.model, "prompt": " the", "content": " the", "add_special": False})
    token = ids["tokens"][-1]
    text = _complete(target, "The cat sat on", max_tokens=3, logit_bias={str(token): 100})["choices"][0]["text"]
    need(text.replace(" ", "") == "thethethe", f"forced, it says {text!r}")


@_behaviour("a JSON schema is kept to")
def _schema(target: Target) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    text = _chat(target, response_format=form, max_tokens=300)["choices"][0]["message"]["content"]
    person = json.loads(text)
    need(set(person) == {"name", "age"}, f"it answers {text[:SHOWN]}")
    need(isinstance(person["age"], int) and len(person["name"]) <= 12, f"it answers {text[:SHOWN]}")


@_behaviour("a schema that cannot be enforced is refused, not ignored")
def _bad_schema(target: Target) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    target.refused(CHAT, {"model": target.model, "messages": HELLO, "max_tokens": 8, "response_format": form})


def _call(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choice = answer["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    need(calls, f"there is no call, but {str(choice['message'])[:SHOWN]}")
    need(choice["finish_reason"] == "tool_calls", f"the reason is {choice['finish_reason']!r}")
    function: Mapping[str, Any] = calls[0]["function"]
    return function


@_behaviour("a required tool is called, with arguments that fit its schema")
def _tool(target: Target) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        function = _call(_chat(target, tools=[WEATHER], tool_choice=choice, **ONE_CALL))
        arguments = json.loads(function["arguments"])
        need(function["name"] == "get_weather" and arguments.get("city") in ("Oslo", "Rome"), f"it calls {function}")


@_behaviour("a call that is streamed is the call")
def _tool_stream(target: Target) -> None:
    body = {"model": target.model, "messages": HELLO, "stream": True, "temperature": 0, **ONE_CALL}
    body |= {"tools": [WEATHER], "tool_choice": "required"}
    name = arguments = ""
    for _, data in target.events(CHAT, body):
        chunk = json.loads(data) if data != "[DONE]" else {"choices": []}
        for call in (chunk["choices"][0]["delta"].get("tool_calls") or []) if chunk["choices"] else []:
            name += call["function"].get("name") or ""
            arguments += call["function"].get("arguments") or ""
    need(name == "get_weather", f"the name is {name!r}")
    need(json.loads(arguments)["city"] in ("Oslo", "Rome"), f"the arguments are {arguments[:SHOWN]}")


@_behaviour("a conversation with calls and their results goes on")
def _tool_history(target: Target) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain, 4 degrees."},
    ]
    need(_chat(target, messages=messages, tools=[WEATHER])["choices"], "there is no answer")


@_behaviour("tool_choice none: no call")
def _no_tool(target: Target) -> None:
    message = _chat(target, tools=[WEATHER], tool_choice="none")["choices"][0]["message"]
    need(not message.get("tool_calls"), f"it calls {str(message)[:SHOWN]}")


@_behaviour("content as a list of parts is text, too")
def _parts(target: Target) -> None:
    parts = [{"type": "text", "text": HELLO[0]["content"]}]
    need(_text(_chat(target, messages=[{"role": "user", "content": parts}])) == _text(_chat(target)), "answers differ")


@_behaviour("fields that nobody knows are no error")
def _unknown_field(target: Target) -> None:
    need(_chat(target, no_such_field={"a": 1})["choices"], "there is no answer")


@_behaviour("what is wrong in a request is a 400 in OpenAI's shape")
def _wrong(target: Target) -> None:
    for fields in ({"messages": "hello"}, {"messages": HELLO, "temperature": "hot"}, {"messages": HELLO, "n": -2}):
        response = target.refused(CHAT, {"model": target.model, **fields})
        error = response.json()["error"]
        need(isinstance(error["message"], str) and error["message"], f"it answers {response.text[:SHOWN]}")
        need(response.status_code in (400, 422), f"the status is {response.status_code}")


@_behaviour("a prompt that is too long is a 400, soon")
def _too_long(target: Target) -> None:
    response = target.refused(
        CHAT, {"model": target.model, "messages": [{"role": "user", "content": "word " * 400_000}]}
    )
    need(response.status_code in (400, 413), f"the status is {response.status_code}")


@_behaviour("what a user types cannot end his turn")
def _forged(target: Target) -> None:
    def tokens(text: str) -> int:
        answer = _chat(target, messages=[{"role": "user", "content": text}], max_tokens=1)
        return int(answer["usage"]["prompt_tokens"])

    for marker in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>"):
        plain = marker.replace("<", "(").replace(">", ")")
        need(
            tokens(marker * 8) - tokens(marker) > 7, f"{marker!r} is one token in a user's text, {plain!r} are several"
        )


@_behaviour("a stream's pieces are whole characters, and make up the whole text")
def _characters(target: Target) -> None:
    body = {"model": target.model, "prompt": "Emoji: 🙂🙃😀 你好 🙂🙃", "max_tokens": 24, "temperature": 0}
    events = [data for _, data in target.events(COMPLETIONS, {**body, "stream": True}) if data != "[DONE]"]
    choices = [choice for data in events for choice in json.loads(data)["choices"]]
    told, whole = "".join(choice["text"] for choice in choices), target.post(COMPLETIONS, body)["choices"][0]["text"]
    need(told == whole, f"the stream says {told!r}, the whole answer {whole!r}")


@_behaviour("responses: an answer, and a stream of events that ends")
def _responses(target: Target) -> None:
    body = {"model": target.model, "input": "Say hello.", "max_output_tokens": 16}
    answer = target.post(RESPONSES, body)
    need(answer["object"] == "response" and answer["output"], f"it answers {str(answer)[:SHOWN]}")
    names = [name or json.loads(data).get("type") for name, data in target.events(RESPONSES, {**body, "stream": True})]
    need(names[0] == "response.created", f"the first event is {names[0]!r}")
    need(names[-1] in ("response.completed", "response.incomplete"), f"the last event is {names[-1]!r}")


@_behaviour("embeddings: as numbers and in base64 the same, one for each text")
def _embeddings(target: Target) -> None:
    numbers, packed = (
        [one["embedding"] for one in target.post_to_special(EMBEDDINGS, body)["data"]]
        for body in (
            {"model": target.embedder, "input": ["A cat.", "A dog."], "encoding_format": form}
            for form in ("float", "base64")
        )
    )
    need(len(numbers) == len(packed) == 2, f"{len(numbers)} texts have one")
    for plain, text in zip(numbers, packed, strict=True):
        raw = base64.b64decode(text)
        unpacked = struct.unpack(f"<{len(raw) // 4}f", raw)
        need(len(unpacked) == len(plain), f"{len(unpacked)} numbers, and {len(plain)}")
        need(all(abs(a - b) < 1e-4 for a, b in zip(plain, unpacked, strict=True)), "they differ")


@_behaviour("rerank: the best document first, with its number")
def _rerank(target: Target) -> None:
    documents = ["Bread is baked in an oven.", "Cats are small animals that purr.", "The train leaves at nine."]
    body = {"model": target.reranker, "query": "Which animal purrs?", "documents": documents}
    results = target.post_to_special("/v1/rerank", body)["results"]
    need(sorted(result["index"] for result in results) == [0, 1, 2], f"it answers {str(results)[:SHOWN]}")
    scores = [result["relevance_score"] for result in results]
    need(scores == sorted(scores, reverse=True), f"scores come as {scores}")
