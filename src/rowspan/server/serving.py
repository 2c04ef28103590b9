"""Serves until told to stop, and then lets running answers finish."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rowspan.backends.protocol import Backend

GRACE_SECONDS = 5.0  # after the drain time, for the last data to reach the clients


def serve(app: FastAPI, backend: Backend, listener: socket.socket, *, drain_seconds: float, access_log: bool) -> int:
    """Serve until a signal comes; the backend is stopped afterwards.

    The first SIGTERM or SIGINT drains: no new connections, running answers get `drain_seconds`. A second one ends at
    once.

    Returns:
        The exit code: 0, or 128 + the number of the signal that ended it at once.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=access_log,
        lifespan="off",
        server_header=False,
        loop="auto",  # uvloop where it exists
        timeout_graceful_shutdown=int(drain_seconds + GRACE_SECONDS),
    )
    server = DrainingServer(config, backend, drain_seconds)
    server.run([listener])
    return server.exit_code


class DrainingServer(uvicorn.Server):
    """A Uvicorn server that drains the backend while the last answers are sent."""

    def __init__(self, config: uvicorn.Config, backend: Backend, drain_seconds: float) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._backend = backend
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT. It is called between any two bytecodes of the main thread."""
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
