"""A small HTTP/1.1 client for servers on this machine, with one connection per request, which reads server-sent events.

It uses httptools, the parser of uvicorn: every token of a child's passes here, and httpx took 220 µs of processor time
for each event, this takes 40. A connection of its own for each request costs 0.1 ms, ends the request when it is
closed, and leaves none of the child's threads waiting on an idle one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httptools
import orjson

from rowspan.backends.process.child import HOST, Address

ANSWER_BYTES = 64 << 20  # limit of an answer that is not a stream


class BrokenAnswerError(Exception):
    """The server hung up, or its answer is malformed."""


class HttpRefusal(Exception):
    """An answer with another status than 200. message: the server's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class _Answer(asyncio.Protocol):
    """Collects an answer as it arrives: parts of its body, then None at its end, or an error."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes | BrokenAnswerError | None] = asyncio.Queue()
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"It is no HTTP: {error}.")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._complete:
            self._fail("It hung up before the end of its answer.")

    def on_headers_complete(self) -> None:
        if not self.status.done():
            self.status.set_result(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        self.arrived.put_nowait(body)

    def on_message_complete(self) -> None:
        self._complete = True
        self.arrived.put_nowait(None)

    def _fail(self, why: str) -> None:
        error = BrokenAnswerError(why)
        if not self.status.done():
            self.status.set_exception(error)
            self.status.exception()  # seen, even if nobody waits for it any more
        self.arrived.put_nowait(error)

    async def part(self) -> bytes | None:
        """The next part of the body; None at its end."""
        part = await self.arrived.get()
        if isinstance(part, BrokenAnswerError):
            raise part
        return part


async def call(address: Address, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send one request and return its JSON answer; None if the answer is empty.

    Raises:
        HttpRefusal: another status than 200.
        BrokenAnswerError: no answer, or none that is JSON.
    """
    async with _exchange(address, method, path, b"" if body is None else orjson.dumps(body)) as answer:
        data = await _whole(answer)
        await _refuse_unless_ok(answer, data)
        try:
            return orjson.loads(data) if data else None
        except ValueError:
            raise BrokenAnswerError("Its answer is no JSON.") from None


async def events(address: Address, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the data of each server-sent event that answers one POST. Closing the generator hangs up.

    Raises: the same as `call`.
    """
    async with _exchange(address, "POST", path, body) as answer:
        if await answer.status != 200:
            await _refuse_unless_ok(answer, await _whole(answer))
        rest = b""
        while (part := await answer.part()) is not None:
            *whole, rest = (rest + part).split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):  # else: a comment that keeps the line busy
                    yield event[6:]
            if len(rest) > ANSWER_BYTES:
                raise BrokenAnswerError("An event of its answer does not end.")


@asynccontextmanager
async def _exchange(address: Address, method: str, path: str, body: bytes) -> AsyncGenerator[_Answer, None]:
    try:
        transport, answer = await asyncio.get_running_loop().create_connection(_Answer, HOST, address.port)
    except OSError as error:
        raise BrokenAnswerError(f"It cannot be reached: {error.strerror}.") from None
    try:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{address.port}\r\nAuthorization: Bearer {address.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        transport.write(head.encode() + body)
        yield answer
    finally:
        transport.close()


async def _whole(answer: _Answer) -> bytes:
    data = bytearray()
    while (part := await answer.part()) is not None:
        data += part
        if len(data) > ANSWER_BYTES:
            raise BrokenAnswerError("Its answer does not end.")
    return bytes(data)


async def _refuse_unless_ok(answer: _Answer, data: bytes) -> None:
    status = await answer.status
    if status != 200:
        raise HttpRefusal(status, _message(data))


def _message(data: bytes) -> str:
    """The message in an error's body, in the formats of llama-server, vLLM and FastAPI."""
    try:
        body = orjson.loads(data)
    except ValueError:
        return data.decode(errors="replace")[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:1000]
