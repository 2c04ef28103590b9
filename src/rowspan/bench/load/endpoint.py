"""A client of an OpenAI endpoint: sends one streamed request and notes when the answer's parts arrive.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from rowspan.errors import RowspanError, UsageError

SHOWN = 200  # characters shown of a malformed answer
PREFIX, DONE = "data:", "[DONE]"
CONNECT_SECONDS = 10.0


class EndpointError(RowspanError):
    """The endpoint refuses, cannot be reached, or is no OpenAI endpoint."""

    code = "endpoint_failed"


@dataclass(frozen=True)
class EndpointAnswer:
    """The timing of one answered request; moments are seconds of the monotonic clock.

    arrivals: moments at which parts with text arrived.
    prompt_tokens, generated_tokens: the endpoint's own counts; None if it gives none.
    counted_tokens: number of tokens that arrived, if the endpoint was asked to name each token; else None.
    cached_tokens: number of prompt tokens that the endpoint had computed before; None if it does not say.
    """

    started: float
    arrivals: Sequence[float]
    prompt_tokens: int | None
    generated_tokens: int | None
    counted_tokens: int | None
    cached_tokens: int | None = None

    @property
    def first(self) -> float:
        """Seconds until the first part arrived."""
        return self.arrivals[0] - self.started

    @property
    def whole(self) -> float:
        """Seconds until the last part arrived."""
        return self.arrivals[-1] - self.started

    @property
    def between(self) -> float | None:
        """Mean seconds between two tokens, after the first; None if there was only one."""
        tokens = self.generated_tokens or len(self.arrivals)
        return (self.whole - self.first) / (tokens - 1) if tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between each part and the one before it."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    @property
    def tokens(self) -> int:
        """Number of generated tokens by the endpoint's count, or else the number of parts."""
        return self.generated_tokens or len(self.arrivals)


class Endpoint:
    """Sends requests to an endpoint. Use it in an `async with` block."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        """Set where and how to send.

        Args:
            url: address of the endpoint, with or without /v1 and a path of the API at its end.
            timeout: most seconds between two parts of an answer.

        Raises:
            UsageError: the address is no web address.
        """
        base = re.sub(r"/v1(/(chat/)?completions|/models)?$", "", url.rstrip("/"))
        try:
            scheme = httpx.URL(base).scheme
        except httpx.InvalidURL:
            scheme = ""
        if scheme not in ("http", "https"):
            raise UsageError(f"{url!r} is no web address.", fix="Write http://HOST:PORT, as `rowspan serve` prints it.")
        self.base = base
        self._client = httpx.AsyncClient(
            base_url=base,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def models(self) -> list[str]:
        """Names of the models that the endpoint offers.

        Raises:
            EndpointError: nobody answers there, or not as an OpenAI endpoint does.
        """
        try:
            response = await self._client.get("/v1/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code != 200:
            raise self._refused(response.status_code, response.text)
        try:
            return [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise self._nonsense("GET /v1/models", response.text) from None

    async def ask(self, body: Mapping[str, Any], *, chat: bool) -> EndpointAnswer:
        """Send one streamed request.

        Raises:
            EndpointError: it was refused, broke off, or made no sense.
        """
        path = "/v1/chat/completions" if chat else "/v1/completions"
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        started = time.perf_counter()
        try:
            async with self._client.stream("POST", path, json=asked) as response:
                if response.status_code != 200:
                    raise self._refused(response.status_code, (await response.aread()).decode(errors="replace"))
                return await self._read(response, path, started)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    async def _read(self, response: httpx.Response, path: str, started: float) -> EndpointAnswer:
        arrivals: list[float] = []
        usage: Mapping[str, Any] = {}
        counted: int | None = None
        finished = False
        async for event in _events(response):
            if event == DONE:
                finished = True
                break
            try:
                data = json.loads(event)
                if "error" in data:
                    raise EndpointError("The endpoint broke off an answer.", why=str(data["error"])[:SHOWN])
                usage = data.get("usage") or usage
                for choice in data["choices"]:
                    if _has_text(choice):
                        arrivals.append(time.perf_counter())
                    named = _named_tokens(choice)
                    counted = counted if named is None else (counted or 0) + named
            except (ValueError, KeyError, TypeError, AttributeError):
                raise self._nonsense(f"POST {path}", event) from None
        if not arrivals:
            raise EndpointError(
                "The endpoint's answer is empty.",
                why="No part of the stream held text." if finished else "It is no stream of events.",
                fix="Check that the address is an OpenAI endpoint's, and that the model answers at all.",
            )
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return EndpointAnswer(started, arrivals, *tokens, counted, cached)

    def _unreachable(self, error: httpx.HTTPError) -> EndpointError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError):
            return EndpointError(f"Nobody answers at {self.base}.", why=f"{why}.", fix="Start it: rowspan serve.")
        return EndpointError(f"{self.base} broke off a request.", why=f"{why}.", fix="Look at its log; try --timeout.")

    def _refused(self, status: int, text: str) -> EndpointError:
        try:
            why = str(json.loads(text)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            why = text.strip()[:SHOWN]
        fix = "Give its key: --api-key." if status in (401, 403) else "Check the address and the options."
        return EndpointError(f"{self.base} answers with status {status}.", why=why, fix=fix)

    def _nonsense(self, request: str, text: str) -> EndpointError:
        return EndpointError(
            f"{self.base} does not answer {request} as an OpenAI endpoint does.",
            why=f"It sent {text.strip()[:SHOWN]!r}.",
            fix="Check the address: the part before /v1/chat/completions.",
        )


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith(PREFIX):
            yield line.removeprefix(PREFIX).strip()


def _has_text(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


def _named_tokens(choice: Mapping[str, Any]) -> int | None:
    """Number of tokens that a part of an answer names, if it was asked for with logprobs; else None."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return None
    named = logprobs.get("content") or logprobs.get("tokens")
    return len(named) if named else None
