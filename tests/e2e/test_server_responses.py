"""The Responses API with OpenAI's own client, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from kit.hermes_model import WEATHER, hermes_model
from kit.http_server import MODEL_NAME, RunningServer, serving

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

TOOL: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
CALL: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = hermes_model(tmp_path_factory.mktemp("responses") / "m.gguf")
    config = EngineConfig(path, split_mode=SplitMode.NONE, parallel=4, cache_tokens=8192, threads=1)
    with Engine.open(config) as engine, serving(engine, ServerConfig()) as running:
        yield running


@pytest.fixture(scope="module")
def responses(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client.responses


def test_a_text(responses: Any, server: RunningServer) -> None:
    asked: dict[str, Any] = {"model": MODEL_NAME, "input": "Hello", "instructions": "Be brief.", "temperature": 0}
    answer = responses.create(**asked, max_output_tokens=6)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.output_tokens == 6
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        chat = client.chat.completions.create(model=MODEL_NAME, messages=messages, temperature=0, max_tokens=6)
    assert answer.output_text == chat.choices[0].message.content
    with responses.stream(**asked, max_output_tokens=6) as stream:
        events = list(stream)
    assert events[-1].response.output_text == answer.output_text
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_its_result_and_what_follows(responses: Any, stream: bool) -> None:
    asked: dict[str, Any] = {"model": MODEL_NAME, "input": "Weather?", "max_output_tokens": 400, **CALL}
    if stream:
        with responses.stream(**asked) as events:
            told = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
            answer = events.get_final_response()
        assert told == answer.output[-1].arguments
    else:
        answer = responses.create(**asked)
    call = answer.output[-1]
    assert (call.type, call.name, answer.status) == ("function_call", "weather", "completed")
    assert json.loads(call.arguments).keys() == {"city", "days"}

    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    short: dict[str, Any] = {"model": MODEL_NAME, "tools": [TOOL], "max_output_tokens": 4, "temperature": 0}
    followed = responses.create(**short, input=[result], previous_response_id=answer.id)
    whole = [{"role": "user", "content": "Weather?"}, call.to_dict(), result]
    assert followed.usage.input_tokens == responses.create(**short, input=whole).usage.input_tokens


def test_a_schema(responses: Any) -> None:
    text = {"format": {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}}
    answer = responses.create(model=MODEL_NAME, input="Weather?", text=text, max_output_tokens=400)
    assert json.loads(answer.output_text)["city"] in ("Rome", "Oslo")


def test_refusals(responses: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        responses.create(model=MODEL_NAME, input="Hi", previous_response_id="resp_1")
    forgotten = responses.create(model=MODEL_NAME, input="Hi", store=False, max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="not kept"):
        responses.create(model=MODEL_NAME, input="Hi", previous_response_id=forgotten.id)
    with pytest.raises(openai.BadRequestError, match="web_search"):
        responses.create(model=MODEL_NAME, input="Hi", tools=[{"type": "web_search"}])
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
    with pytest.raises(openai.BadRequestError, match="input_image"):
        responses.create(model=MODEL_NAME, input=[image])
