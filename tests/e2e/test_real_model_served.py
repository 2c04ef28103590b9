"""SmolLM2 behind the real server, asked by the real client, by many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from kit.http_server import MODEL_NAME, RunningServer, serving

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine

QUESTIONS = [f"Tell me {count} facts about {thing}." for count in (2, 3, 5) for thing in
             ("cats", "the Moon", "bread", "PCI Express", "Norway", "chess")][:17]  # fmt: skip
N_TOKENS = 24


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[RunningServer]:
    config = EngineConfig(smollm2_path, context_size=512, parallel=16)
    with Engine.open(config) as engine, serving(engine, ServerConfig()) as running:
        yield running


async def stream(client: openai.AsyncOpenAI, question: str) -> str:
    chunks = await client.chat.completions.create(
        model=MODEL_NAME,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=N_TOKENS,
        stream=True,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])


def test_seventeen_chats_at_once_read_as_one_by_one(server: RunningServer) -> None:
    async def one_by_one() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return [await stream(client, question) for question in QUESTIONS]

    async def all_at_once() -> tuple[list[str], int, int]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            chats = asyncio.gather(*(stream(client, question) for question in QUESTIONS))
            most_running = most_waiting = 0
            while not chats.done():
                stats = await asyncio.to_thread(server.engine.stats)
                most_running, most_waiting = max(most_running, stats.running), max(most_waiting, stats.waiting)
                await asyncio.sleep(0.05)
            return await chats, most_running, most_waiting

    expected = asyncio.run(one_by_one())
    texts, most_running, most_waiting = asyncio.run(all_at_once())
    assert texts == expected
    assert len(set(texts)) > 10, "the questions were meant to be answered differently"
    assert most_running == 16
    assert most_waiting >= 1
    assert server.is_idle()
