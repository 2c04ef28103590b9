"""Serves until told to stop, and then lets running answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from rowspan.backends.protocol import Backend
from rowspan.config import ServerConfig
from rowspan.errors import RowspanError
from rowspan.server.models.pool import ModelPool
from rowspan.server.patience import patient_protocol

KEEP_ALIVE_SECONDS = 75  # proxies keep idle connections for up to 60 s, and must not meet one that is closed here
GRACE_SECONDS = 5.0  # after the drain time, for the last data to reach the clients


def serve(app: FastAPI, backend: Backend, listener: socket.socket, config: ServerConfig, *, access_log: bool) -> int:
    """Serve until a signal comes; the backend is stopped afterwards.

    The first SIGTERM, SIGINT or SIGHUP drains: no new connections, running answers get the time to drain. A second one
    ends at once.

    Returns:
        The exit code: 0, or 128 + the number of the signal that ended it at once.
    """
    longest = int(config.drain_seconds + GRACE_SECONDS)
    settings = uvicorn_config(app, config, access_log=access_log, timeout_graceful_shutdown=longest)
    server = DrainingServer(settings, backend, config.drain_seconds)
    _take_signals(server)
    server.run([listener])
    return server.exit_code


def serve_models(
    app: ASGIApp, pool: ModelPool, listener: socket.socket, config: ServerConfig, *, access_log: bool
) -> int:
    """Serve several models until a signal comes: see `serve`. The first and the pinned ones are loaded meanwhile."""
    longest = int(config.drain_seconds + GRACE_SECONDS)
    settings = uvicorn_config(app, config, access_log=access_log, timeout_graceful_shutdown=longest)
    server = PoolServer(settings, pool)
    _take_signals(server)
    server.run([listener])
    return server.exit_code


def _tls(config: ServerConfig) -> dict[str, Any]:
    if config.ssl_files is None:
        return {}
    certificate, key = config.ssl_files
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


def _take_signals(server: uvicorn.Server) -> None:
    """Have signals drain the server from now on; its loop, which would do so, takes 0.1 s and more to begin."""
    signal.signal(signal.SIGTERM, server.handle_exit)
    signal.signal(signal.SIGINT, server.handle_exit)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, server.handle_exit)


def uvicorn_config(app: ASGIApp, config: ServerConfig, **options: Any) -> uvicorn.Config:
    """How the app is served, here and in tests. options: further ones of Uvicorn's."""
    return uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        server_header=False,
        loop="auto",  # uvloop where it exists
        http=patient_protocol(config.request_seconds),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        **_tls(config),
        **options,
    )


class PoolServer(uvicorn.Server):
    """A Uvicorn server that loads models when it starts, and unloads all when it ends."""

    def __init__(self, config: uvicorn.Config, pool: ModelPool) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._pool = pool
        self._loading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._load_first())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._loading is not None:
            self._loading.cancel()
        await super().shutdown(sockets)
        await self._pool.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            self.exit_code = 128 + sig
        self.should_exit = True

    async def _load_first(self) -> None:
        pinned = [model for model in self._pool.models if model.entry.pinned]
        for model in dict.fromkeys([*pinned, self._pool.default]):
            with contextlib.suppress(RowspanError):  # it has been logged; whoever asks for the model hears of it
                await self._pool.load(model)


class DrainingServer(uvicorn.Server):
    """A Uvicorn server that drains the backend while the last answers are sent."""

    def __init__(self, config: uvicorn.Config, backend: Backend, drain_seconds: float) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._backend = backend
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP. It is called between any two bytecodes of the main thread."""
        if self.should_exit:
            self.force_exit = True
            self.exit_code = 128 + sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        # The backend takes no more requests, and ends those that have not finished in time with an error.
        drained = loop.run_in_executor(None, partial(self._backend.stop, drain_seconds=self._drain_seconds))
        stopped = asyncio.create_task(super().shutdown(sockets))
        while not (stopped.done() and drained.done()) and not self.force_exit:
            await asyncio.sleep(0.05)
        if self.force_exit:
            stopped.cancel()
            await loop.run_in_executor(None, self._backend.stop)
