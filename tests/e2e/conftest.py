"""One tiny model behind one server, shared by the tests of the API: starting its worker takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from kit.console_page import CHROMIUM, new_page
from kit.gguf_builder import TinyModel
from kit.http_server import RunningServer, serving
from kit.reciting_backend import RecitingBackend

from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode

PARALLEL, MAX_WAITING, CONTEXT = 4, 3, 2048


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(context_length=CONTEXT).write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_engine(tiny_path: Path) -> Iterator[Engine]:
    config = EngineConfig(
        tiny_path, split_mode=SplitMode.NONE, parallel=PARALLEL, cache_tokens=PARALLEL * CONTEXT, threads=1
    )
    with Engine.open(config) as engine:
        yield engine


@pytest.fixture(scope="session")
def server(tiny_engine: Engine) -> Iterator[RunningServer]:
    with serving(tiny_engine, ServerConfig(max_waiting=MAX_WAITING)) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def reciting() -> RecitingBackend:
    return RecitingBackend()


@pytest.fixture
def console(reciting: RecitingBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunningServer]:
    """A server with no conversations, whose model recites."""
    monkeypatch.setenv("ROWSPAN_CONVERSATIONS", str(tmp_path / "conversations.sqlite"))
    with serving(reciting, ServerConfig(reasoning_parser="think")) as running:
        yield running


@pytest.fixture
def page(browser: Any, console: RunningServer) -> Iterator[Any]:
    """The console, open in a browser. Fails if anything went wrong in it that its user would not see."""
    page, faults = next(new_page(browser, console))
    page.goto(console.url)
    page.wait_for_selector("#prompt")
    yield page
    assert not faults
    page.context.close()
