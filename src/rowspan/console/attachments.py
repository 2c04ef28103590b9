"""Text of files that browsers cannot read themselves: PDF."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from rowspan.errors import RowspanError, UsageError

Json = dict[str, Any]
MOST_PAGES = 2000
MOST_CHARACTERS = 2_000_000


def attachment_routes() -> APIRouter:
    router = APIRouter(prefix="/console/api", include_in_schema=False)

    @router.post("/extract")
    async def extract(request: Request) -> Json:
        """The text of a PDF file, which is the request's body."""
        return {"text": await run_in_threadpool(pdf_text, await request.body())}

    return router


def pdf_text(content: bytes) -> str:
    """The text of a PDF, page by page, cut after `MOST_CHARACTERS`.

    Raises:
        UsageError: it is no PDF that can be read, or it has no text.
        RowspanError: pypdf is not installed.
    """
    try:
        from pypdf import PdfReader
    except ImportError:
        raise RowspanError(
            "PDF files cannot be read here.", why="pypdf is not installed.", fix="pip install pypdf, on the server."
        ) from None
    parts: list[str] = []
    try:
        for page in PdfReader(BytesIO(content)).pages[:MOST_PAGES]:
            parts.append(page.extract_text())
            if sum(map(len, parts)) > MOST_CHARACTERS:
                break
    except Exception as error:  # of a file from anywhere, a parser may raise anything
        raise UsageError("This PDF cannot be read.", why=f"{type(error).__name__}.", fix="Try another file.") from error
    text = "\n\n".join(parts).strip()[:MOST_CHARACTERS]
    if not text:
        raise UsageError(
            "This PDF has no text.", why="It may consist of pictures.", fix="Have its text recognized first."
        )
    return text
