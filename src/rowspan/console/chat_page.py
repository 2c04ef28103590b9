"""The chat page at `/`: a few static files of this package, and the HTTP headers that keep the page harmless."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files

from fastapi import APIRouter, Response

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline: text of a model that turned into markup could not do anything.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def console_routes() -> APIRouter:
    """Routes for the page: `/` is index.html; the files beside it are at /console/NAME."""
    router = APIRouter(include_in_schema=False)
    for file in files("rowspan.console").joinpath("static").iterdir():
        path = "/" if file.name == "index.html" else f"/console/{file.name}"
        media_type = MEDIA_TYPES[file.name.rpartition(".")[2]]
        router.add_api_route(path, _static(file.read_bytes(), media_type), methods=["GET", "HEAD"])
    return router


def _static(content: bytes, media_type: str) -> Callable[[], Coroutine[None, None, Response]]:
    async def serve() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return serve
