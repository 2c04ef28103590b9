"""Ends connections whose clients do not get on with what they began: a request that never comes, or a body that never
ends. Each holds a file, and many of them would leave none for others.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which waits so long for a connection's first request to begin with its headers complete. (For
    later ones it has a limit of its own, from the answer before on.)
    """

    class PatientProtocol(HttpToolsProtocol):
        _waiting: TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._waiting = self.loop.call_later(seconds, transport.close)

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

    return PatientProtocol


class BodyPatience:
    """Ends requests whose bodies stop coming. seconds: between one part and the next."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_whole = scope["type"] != "http"

        async def timely() -> Message:
            nonlocal is_whole
            if is_whole:  # what comes next is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._seconds)
            except TimeoutError:
                text = f"Nothing more of the request's body came for {self._seconds:g} s. Send it again, whole."
                raise HTTPException(408, text, {"Connection": "close"}) from None
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, timely, send)
