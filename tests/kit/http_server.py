"""A server in a thread, for tests that talk to it over real HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import Backend
from rowspan.config import ServerConfig
from rowspan.engine.engine import Engine
from rowspan.server.app import create_app
from rowspan.server.listen import bind, url
from rowspan.server.serving import uvicorn_config

MODEL_NAME = "tiny"


@dataclass(frozen=True)
class RunningServer:
    url: str
    backend: Backend

    @property
    def engine(self) -> Engine:
        assert isinstance(self.backend, NativeBackend)
        return self.backend.engine

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]

    def is_idle(self) -> bool:
        stats = self.engine.stats()
        return (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


@contextmanager
def serving(running: Engine | Backend, config: ServerConfig) -> Iterator[RunningServer]:
    """The app on a free port. What runs behind it stays open."""
    backend = NativeBackend(running.blueprint, running) if isinstance(running, Engine) else running
    with bind(config.host, 0) as listener:
        app = create_app(backend, config, MODEL_NAME)
        server = uvicorn.Server(uvicorn_config(app, config, access_log=False))
        thread = threading.Thread(target=server.run, args=([listener],))
        address = url(listener)
        thread.start()
        try:
            assert eventually(lambda: server.started)
            yield RunningServer(address, backend)
        finally:
            server.should_exit = True
            thread.join(30)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
