"""The console's page at `/`: files that `console-app/` was built into, and the HTTP headers that keep it harmless."""

from __future__ import annotations

from functools import cache
from gzip import compress
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline: text of a model that turned into markup could not do anything.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}
FOREVER = "public, max-age=31536000, immutable"  # names of assets have a digest of what is in them


def static_routes() -> APIRouter:
    """Routes for the page: `/` is index.html; what it loads is at /console/assets/NAME."""
    router = APIRouter(include_in_schema=False)
    static = files("rowspan.console").joinpath("static")
    page = static.joinpath("index.html").read_bytes()
    assets = {file.name: file.read_bytes() for file in static.joinpath("assets").iterdir()}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return _reply(request, page, "html", "no-cache")

    @router.api_route("/console/assets/{name}", methods=["GET", "HEAD"])
    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise HTTPException(404)
        return _reply(request, assets[name], name.rpartition(".")[2], FOREVER)

    return router


def _reply(request: Request, content: bytes, ending: str, caching: str) -> Response:
    headers = {**HEADERS, "Cache-Control": caching}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = _compressed(content)
        headers["Content-Encoding"] = "gzip"
    return Response(content, headers=headers, media_type=MEDIA_TYPES[ending])


@cache
def _compressed(content: bytes) -> bytes:
    return compress(content, mtime=0)
