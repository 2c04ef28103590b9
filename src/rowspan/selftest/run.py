"""Tries every behaviour at one server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from rowspan.errors import RowspanError, UsageError
from rowspan.selftest import openai_dialect, other_dialects
from rowspan.selftest.behaviour import Behaviour, Result, Target, try_one

SECONDS = 120.0  # for one answer: a server may load a model first


class UnreachableError(RowspanError):
    """There is no server, or none that lists a model."""

    code = "endpoint_failed"


def behaviours(dialects: tuple[str, ...] = ()) -> list[Behaviour]:
    """All behaviours, or those of some dialects, by any spelling of their names. Raises UsageError."""
    every = [*openai_dialect.BEHAVIOURS, *other_dialects.BEHAVIOURS]
    known = {one.dialect.lower(): one.dialect for one in every}
    for name in dialects:
        if name.lower() not in known:
            raise UsageError(f"There is no dialect {name!r}.", fix=f"Choose among {', '.join(known.values())}.")
    wanted = {known[name.lower()] for name in dialects} or set(known.values())
    return [one for one in every if one.dialect in wanted]


def run(
    url: str,
    tried: list[Behaviour],
    *,
    model: str | None = None,
    embedder: str | None = None,
    reranker: str | None = None,
    key: str | None = None,
) -> Iterator[Result]:
    """Try behaviours one after the other, and yield each one's result.

    Args:
        url: the server's address, with or without /v1.
        model, embedder, reranker: None: the first in its list; the same.

    Raises:
        UnreachableError: there is no such server.
    """
    base = url.rstrip("/").removesuffix("/v1")
    base = base if "://" in base else f"http://{base}"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    fresh = httpx.Limits(max_keepalive_connections=0)  # some servers close idle connections just when they are used
    with httpx.Client(base_url=base, headers=headers, timeout=SECONDS, trust_env=False, limits=fresh) as http:
        name = model or _first_model(http, base)
        target = Target(http, name, embedder or name, reranker or name)
        for behaviour in tried:
            yield try_one(behaviour, target)


def _first_model(http: httpx.Client, base: str) -> str:
    try:
        response = http.get("/v1/models")
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
        raise UnreachableError(
            f"{base} lists no model.",
            why=f"GET /v1/models: {error or type(error).__name__}.",
            fix="Check the address and the key (--api-key), or name a model with --model.",
        ) from error
