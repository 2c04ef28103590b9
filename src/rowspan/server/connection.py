"""Works for a client only as long as it stays connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """A server-sent event, https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    return b"data: " + data + b"\n\n"


def json_event(data: dict[str, Any]) -> bytes:
    return event(orjson.dumps(data))


def writable(value: Any) -> Any:
    """A value of JSON as orjson can write it: models make up integers of more than 64 bits, which become floats."""
    match value:
        case dict():
            return {name: writable(each) for name, each in value.items()}
        case list():
            return [writable(each) for each in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 10**300 else str(value)
    return value


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work; cancel it as soon as the client hangs up. The request's body must have been read.

    Raises:
        ClientDisconnect: the client hung up.
    """
    task = asyncio.create_task(work)
    hangup = asyncio.create_task(_hangup(receive))
    try:
        await asyncio.wait({task, hangup}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        hangup.cancel()
        if not task.done():  # what is done needs no further turn of the loop, for which a first token would wait
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class EventStream(Response):
    """Sends server-sent events, or lines, as they come, and closes their source whatever happens."""

    def __init__(self, events: AsyncGenerator[bytes, None], media_type: str = "text/event-stream") -> None:
        # X-Accel-Buffering: nginx would otherwise hold events back until it has a buffer full of them.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, 200, headers, media_type)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await while_connected(receive, self._send_all(send))
            except ClientDisconnect:
                return  # the usual way to stop an answer

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
