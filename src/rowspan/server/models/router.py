"""The app in front of several models' apps: finds the model that a request names, has it loaded, and hands the request
on. Each model has an app of its own, so its routes are those of a server with one model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from rowspan.backends.protocol import HealthState
from rowspan.server.connection import while_connected
from rowspan.server.error_replies import UnknownModelError, describe, error_response
from rowspan.server.models.entry import ModelState
from rowspan.server.models.keep_alive import keep_alive_seconds
from rowspan.server.models.metrics import pool_metrics
from rowspan.server.models.pool import ModelPool, PooledModel

Json = dict[str, Any]

HEARTBEAT_SECONDS = 10.0  # between comments of a stream whose model is being loaded: proxies wait 60 s
HEARTBEAT = b": loading the model\n\n"


class ModelRouter:
    """An ASGI app."""

    def __init__(self, pool: ModelPool, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._pool = pool
        self._heartbeat_seconds = heartbeat_seconds
        self._created = int(time.time())
        self._own: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("GET", "/v1/models"): self._list,
            ("GET", "/models"): self._list,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._running,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/models/load"): self._load,
            ("POST", "/models/unload"): self._unload,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path = scope["path"]
        own = self._own.get((method, path.rstrip("/") or "/"))
        try:
            if own is not None:
                await own(scope, receive, send)
            elif method == "GET" and path.startswith("/v1/models/"):
                model = self._pool.find(unquote(path.removeprefix("/v1/models/")))
                await _json(self._card(model))(scope, receive, send)
            else:
                await self._hand_on(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error, path)(scope, receive, send)

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("model", [None])[0]
            model = self._pool.find(asked)
            if model.app is not None:  # pages that need no model, such as the console
                await model.app(scope, receive, send)
                return
            body: bytes = b""
            fields: Json = {}
        else:
            body = await _whole(receive)
            fields = _fields(body)
            name = fields.get("model", fields.get("name") if scope["path"].startswith("/api/") else None)
            model = self._find(name, scope["path"])
        keep = keep_alive_seconds(fields["keep_alive"]) if fields.get("keep_alive") is not None else model.entry.ttl
        waits = model.state is not ModelState.LOADED
        streams = waits and fields.get("stream") is True and scope["path"].startswith("/v1/")
        replay = _Replay(body, receive)
        using = self._pool.used(model)
        if streams:
            sender = _HeartbeatSend(send, self._heartbeat_seconds, scope["path"])
            await sender.begin()
            try:
                app = await while_connected(receive, using.__aenter__())
            except ClientDisconnect:
                raise
            except Exception as error:
                await sender.fail(error)
                return
            finally:
                sender.stop()
            send = sender
        else:
            app = await while_connected(receive, using.__aenter__()) if waits else await using.__aenter__()
        model.ttl = keep
        try:
            await app(scope, replay, send)
        finally:
            await using.__aexit__(None, None, None)
            if keep == 0:
                await self._pool.unload(model)

    def _find(self, name: object, path: str) -> PooledModel:
        """A name of Anthropic's own models stands for the first model, as on a server with one."""
        text = name if isinstance(name, str) else None
        try:
            return self._pool.find(text)
        except UnknownModelError:
            if path.startswith("/v1/messages") and text is not None and text.startswith("claude"):
                return self._pool.default
            raise

    def _card(self, model: PooledModel) -> Json:
        context = None if model.backend is None else model.backend.limits.context_size
        return {
            "id": model.entry.name,
            "object": "model",
            "created": self._created,
            "owned_by": "rowspan",
            "aliases": list(model.entry.aliases),
            "state": model.state,
            "status": {"value": model.state},  # llama-server's form
            "pinned": model.entry.pinned,
            **({"max_model_len": context} if context else {}),
            **({"error": str(model.failure)} if model.failure else {}),
        }

    async def _list(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = [self._card(model) for model in self._pool.models]
        await _json({"object": "list", "data": cards})(scope, receive, send)

    async def _tags(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _json({"models": [self._tag(model) for model in self._pool.models]})(scope, receive, send)

    async def _running(self, scope: Scope, receive: Receive, send: Send) -> None:
        loaded = [model for model in self._pool.models if model.state is ModelState.LOADED]
        await _json({"models": [self._tag(model) for model in loaded]})(scope, receive, send)

    def _tag(self, model: PooledModel) -> Json:
        name = model.entry.name
        details = {"format": "gguf", "family": "", "families": None, "parameter_size": "", "quantization_level": ""}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created))
        expires = "" if model.expires is None else _moment(time.time() + model.expires - time.monotonic())
        return {
            "name": name,
            "model": name,
            "modified_at": moment,
            "size": 0,
            "digest": "",
            "details": details,
            **({"expires_at": expires, "size_vram": 0} if model.state is ModelState.LOADED else {}),
        }

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Well, unless a model that is loaded is not: others are loaded when they are asked for."""
        states = {
            model.entry.name: model.backend.health().state if model.backend is not None else model.state
            for model in self._pool.models
        }
        is_well = HealthState.FAILED not in states.values() or not any(
            model.backend is not None and model.backend.health().state is HealthState.FAILED
            for model in self._pool.models
        )
        body = {"status": "ok" if is_well else HealthState.FAILED, "models": states}
        await _json(body, 200 if is_well else 503)(scope, receive, send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        page, kind = await pool_metrics(self._pool, accept)
        await Response(page, headers={"Content-Type": kind})(scope, receive, send)

    async def _load(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._pool.find(_fields(await _whole(receive)).get("model"))
        await while_connected(receive, self._pool.load(model))
        await _json({"success": True, **self._card(model)})(scope, receive, send)

    async def _unload(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._pool.find(_fields(await _whole(receive)).get("model"))
        await while_connected(receive, self._pool.unload(model))
        await _json({"success": True, **self._card(model)})(scope, receive, send)


class _Replay:
    """Gives an app a body that has been read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _HeartbeatSend:
    """Begins a stream before its app does, and keeps it alive with comments. What the app answers comes behind them; an
    error becomes an event of the stream, since its status has been sent.
    """

    def __init__(self, send: Send, seconds: float, path: str) -> None:
        self._send = send
        self._seconds = seconds
        self._path = path
        self._beating: asyncio.Task[None] | None = None
        self._failed = False

    async def begin(self) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._beating = asyncio.create_task(self._beat())

    def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    async def fail(self, error: Exception) -> None:
        await self._body(b"data: " + describe(error, self._path)[1] + b"\n\n", more=False)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._failed = message["status"] >= 400
        elif self._failed:
            if message.get("body"):
                await self._body(b"data: " + message["body"] + b"\n\n", more=message.get("more_body", False))
            elif not message.get("more_body", False):
                await self._body(b"", more=False)
        else:
            await self._send(message)

    async def _beat(self) -> None:
        while True:
            await self._body(HEARTBEAT, more=True)
            await asyncio.sleep(self._seconds)

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _fields(body: bytes) -> Json:
    """A body's fields; none if it is no object of JSON, which the app refuses in its own words."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _json(body: Json, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
