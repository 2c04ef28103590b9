"""Checks that a request passes before any route sees it: its id, its origin, its key, its size.

Plain ASGI: these neither read nor delay what they let through.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rowspan.console.conversation_routes import OWNER
from rowspan.errors import RowspanError
from rowspan.server import session
from rowspan.server.error_replies import BodyTooLargeError, ForeignOriginError, InvalidKeyError, error_response
from rowspan.server.keys import KeyRing

# Paths that need a key; /health and the console's files do not.
PROTECTED = (
    *("/v1/", "/v2/", "/api/", "/models", "/console/api/", "/metrics", "/embedding", "/rerank"),
    *("/completion", "/infill", "/tokenize", "/detokenize", "/apply-template", "/props", "/slots"),
)
MAX_BODY_BYTES = 32 << 20  # any context a model has, written as token ids, several times over


class RequestId:
    """Returns `x-request-id` to clients that sent one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = Headers(scope=scope).get("x-request-id") if scope["type"] == "http" else None

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and request_id is not None:
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class OriginCheck:
    """Keeps other sites' web pages from using this server through the browser of someone who can reach it.

    A page may send requests anywhere, and its name may be made to point to this very machine (DNS rebinding). Browsers
    say where a page comes from, but not when it asks its own site for something: then the name that it asked for tells.
    Other programs name this machine by an address or a name that no stranger can have, and are not affected.

    Args:
        loopback: the server listens on this machine only, so its own page can only come from there.
        allowed: origins of other sites whose pages may use it; "*": all.
    """

    def __init__(self, app: ASGIApp, loopback: bool, allowed: Collection[str] = ()) -> None:
        self._app = app
        self._loopback = loopback
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin, host = headers.get("origin", ""), headers.get("host", "")
            if origin == "null" or origin.startswith(("http://", "https://")):
                refused = None if self._is_ours(origin, host) else _foreign(origin)
            else:
                refused = None if self._may_be_asked_as(host) else _rebound(host)
            if refused is not None:
                await error_response(refused, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _may_be_asked_as(self, host: str) -> bool:
        """Whether a name stands for this machine, whoever asks. Only servers that nobody else can reach are asked by
        pages of strangers alone; those on a network have names that are not known here.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            allowed = {urlsplit(origin).hostname for origin in self._allowed}
        except ValueError:
            return False
        return not self._loopback or "*" in self._allowed or name in allowed or _is_private(name)

    def _is_ours(self, origin: str, host: str) -> bool:
        if origin in self._allowed or "*" in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            return parts.netloc == host and (not self._loopback or is_loopback(parts.hostname or ""))
        except ValueError:
            return False


class KeyCheck:
    """Requires an API key for the API, and for pages that tell how much others use it. The console's own pages may send
    the cookie that they got for a key.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED) and scope["path"] != session.PATH:
            headers = Headers(scope=scope)
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if not key:  # as Anthropic's clients send it
                scheme, key = "bearer", headers.get("x-api-key", "")
            known = None
            if key and scheme.lower() == "bearer":
                known = self._keys.matching(key.strip().encode("latin-1"))
            elif not key and (scope["method"] in session.SAFE_METHODS or session.is_same_origin(headers)):
                known = session.key_of_cookie(headers, self._keys)
            if known is None:
                await error_response(_no_key(bool(key)), scope["path"])(scope, receive, send)
                return
            scope[OWNER] = session.owner_of_key(known)
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses request bodies that are too large, before or while they are read."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0") if scope["type"] == "http" else "0"
        if length.isdigit() and int(length) > self._limit:
            await error_response(self._too_large(), scope["path"])(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                # This is the only exception that FastAPI lets through while it reads a body.
                raise HTTPException(413, str(self._too_large()), {"Connection": "close"})
            return message

        await self._app(scope, limited_receive, send)

    def _too_large(self) -> RowspanError:
        return BodyTooLargeError(
            f"The request's body is larger than {self._limit >> 20} MiB.",
            fix="Send less text, or fewer prompts at once.",
        )


def is_loopback(host: str) -> bool:
    """Whether a host name, address or Unix socket can only mean this machine."""
    if host.endswith(".sock"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_private(name: str) -> bool:
    """Whether a name cannot belong to a site on the internet: an address, or a name without a public ending."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa"))
    return True


def _rebound(host: str) -> RowspanError:
    return ForeignOriginError(
        f"This server is not called {host[:200]}.",
        why="It listens on this machine only; a web page may have made its own name point here.",
        fix="Use the address it printed; behind a proxy, start it with --cors-origins https://NAME, or with --api-key.",
    )


def _foreign(origin: str) -> RowspanError:
    return ForeignOriginError(
        f"Web pages of {origin[:200]} may not use this server.",
        why="Without an API key, only its own page may, under an address of the machine it listens on.",
        fix="Start it with --cors-origins, or --api-key, or open the page at the address it printed.",
    )


def _no_key(given: bool) -> RowspanError:
    return InvalidKeyError(
        "The API key is wrong." if given else "An API key is needed.",
        fix="Send the header Authorization: Bearer KEY, with a key the server was started with.",
    )
