"""The console's page at `/`: files that `console-app/` was built into, and the HTTP headers that keep it harmless."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from gzip import compress
from importlib.resources import files

from fastapi import APIRouter, Request, Response

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
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
    page = _static(static.joinpath("index.html").read_bytes(), MEDIA_TYPES["html"], "no-cache")
    router.add_api_route("/", page, methods=["GET", "HEAD"])
    for file in static.joinpath("assets").iterdir():
        asset = _static(file.read_bytes(), MEDIA_TYPES[file.name.rpartition(".")[2]], FOREVER)
        router.add_api_route(f"/console/assets/{file.name}", asset, methods=["GET", "HEAD"])
    return router


def _static(content: bytes, media_type: str, caching: str) -> Callable[[Request], Coroutine[None, None, Response]]:
    headers = {**HEADERS, "Cache-Control": caching}

    @cache
    def compressed() -> bytes:
        return compress(content, mtime=0)

    async def serve(request: Request) -> Response:
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(compressed(), headers={**headers, "Content-Encoding": "gzip"}, media_type=media_type)
        return Response(content, headers=headers, media_type=media_type)

    return serve
