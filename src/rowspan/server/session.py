"""Sign-in for the console's pages: a cookie that proves that its browser has had an API key.

It holds when it ends, signed with the key itself: so it outlives a restart of the server, and ends with its key. A
page's script cannot read it (HttpOnly), and other sites' pages cannot use it (SameSite, and the check of origins).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers

from rowspan.server.error_replies import InvalidKeyError
from rowspan.server.keys import ApiKey, KeyRing

COOKIE = "rowspan_session"
PATH = "/console/api/session"
LIFETIME = 30 * 24 * 3600.0  # seconds
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class SignIn(BaseModel):
    key: Annotated[str, Field(max_length=4096)]


def session_routes(keys: KeyRing) -> APIRouter:
    """Routes to sign in and out. They are the only ones below /console/api that need no key."""
    router = APIRouter(include_in_schema=False)

    @router.get(PATH)
    async def state(http: Request) -> dict[str, Any]:
        return {"needs_key": bool(keys), "signed_in": not keys or key_of_cookie(http.headers, keys) is not None}

    @router.post(PATH)
    async def sign_in(http: Request, body: SignIn, response: Response) -> dict[str, Any]:
        key = keys.matching(body.key.strip().encode())
        if key is None or not is_same_origin(http.headers):
            raise InvalidKeyError("The API key is wrong.", fix="Ask whoever started this server for a key.")
        until = int(time.time() + LIFETIME)
        secure = http.url.scheme == "https"
        options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": secure, "path": "/"}
        response.set_cookie(COOKIE, f"{until}.{_signature(key, until)}", max_age=int(LIFETIME), **options)
        return {"signed_in": True}

    @router.delete(PATH)
    async def sign_out(response: Response) -> dict[str, Any]:
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return {"signed_in": False}

    return router


def key_of_cookie(headers: Headers, keys: KeyRing) -> ApiKey | None:
    """The key that a request's cookie was made with; None if it has none that is still good."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    until, _, signature = cookie.value.partition(".") if cookie else ("", "", "")
    if not (until.isascii() and until.isdigit() and len(until) < 12) or int(until) < time.time():
        return None
    made = [
        key for key in keys.keys if secrets.compare_digest(signature.encode(), _signature(key, int(until)).encode())
    ]
    return made[0] if made else None


def is_same_origin(headers: Headers) -> bool:
    """Whether a request that changes something comes from one of our own pages: browsers say where theirs is from."""
    try:
        return urlsplit(headers.get("origin", "")).netloc == headers.get("host")
    except ValueError:
        return False


def owner_of_key(key: ApiKey) -> str:
    """The name under which a key's conversations are kept, which does not tell the key."""
    return hashlib.sha256(f"rowspan owner {key.digest}".encode()).hexdigest()[:32]


def _signature(key: ApiKey, until: int) -> str:
    return hmac.new(key.digest.encode(), f"rowspan session {until}".encode(), hashlib.sha256).hexdigest()
