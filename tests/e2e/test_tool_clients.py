"""Clients that people use, unchanged: they call tools and ask for objects, of a model that a grammar guides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import MODEL_NAME, RunningServer, serving
from kit.vocabulary import bpe

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

pytestmark = pytest.mark.heavy


class City(pydantic.BaseModel):
    """A city."""

    model_config = pydantic.ConfigDict(extra="forbid")  # random weights would add properties without end
    name: Literal["Rome", "Oslo"]
    days: Literal[1, 2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = TinyModel(context_length=4096, extra=bpe()).write(tmp_path_factory.mktemp("clients") / "tiny.gguf")
    config = EngineConfig(path, split_mode=SplitMode.NONE, parallel=2, cache_tokens=8192, threads=1)
    with Engine.open(config) as engine, serving(engine, ServerConfig()) as running:
        yield running


def test_langchain(server: RunningServer) -> None:
    openai = pytest.importorskip("langchain_openai", reason="langchain-openai: not installed")
    model = openai.ChatOpenAI(
        model=MODEL_NAME, base_url=f"{server.url}/v1", api_key="none", max_tokens=1500, max_retries=0
    )

    def city_weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        return city

    called = model.bind_tools([city_weather], tool_choice="city_weather", strict=True).invoke("Weather?")
    assert called.tool_calls
    assert {call["name"] for call in called.tool_calls} == {"city_weather"}
    assert all(call["args"]["city"] in ("Rome", "Oslo") for call in called.tool_calls)
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(City, method=method).invoke("Which city?")
        assert isinstance(found, City)


def test_instructor(server: RunningServer) -> None:
    instructor = pytest.importorskip("instructor", reason="instructor: not installed")
    import openai

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none"), mode=mode)
        found: Any = client.chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": "Which city?"}],
            response_model=City,
            max_tokens=1500,
            max_retries=0,
        )
        assert isinstance(found, City)


def test_pydantic_ai(server: RunningServer) -> None:
    ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai: not installed")
    models = pytest.importorskip("pydantic_ai.models.openai", reason="pydantic-ai: not installed")
    providers = pytest.importorskip("pydantic_ai.providers.openai", reason="pydantic-ai: not installed")

    model = models.OpenAIChatModel(
        MODEL_NAME, provider=providers.OpenAIProvider(base_url=f"{server.url}/v1", api_key="none")
    )

    async def ask() -> list[Any]:
        agents: list[Any] = [
            ai.Agent(model, output_type=output, model_settings={"max_tokens": 1500})
            for output in (City, ai.NativeOutput(City))
        ]
        return [(await agent.run("Which city?")).output for agent in agents]

    assert all(isinstance(found, City) for found in asyncio.run(ask()))
