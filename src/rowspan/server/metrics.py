"""Metrics for operators: GET /metrics, in Prometheus' text formats; docs/metrics.md lists them.

They are the same for every backend; a metric that a backend does not provide is absent, not zero. A request for them
wakes no backend.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rowspan.backends.protocol import Backend, BackendStats, FinishReason, HealthState, Piece
from rowspan.errors import RowspanError
from rowspan.server.error_replies import CLIENT_CLOSED_REQUEST, ERROR_CODE

PATH = "/metrics"
ARRIVED = "rowspan.arrived"  # where a request's scope has its time of arrival, by time.perf_counter()
OTHER = "other"  # addresses that there is no route for: their number is up to whoever asks

# Seconds. A prompt takes from milliseconds to minutes, a token from under one to hundreds of milliseconds.
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
WHOLE_ANSWER = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """The metrics of one app. They are not registered in prometheus_client's registry for the whole process."""

    def __init__(self, backend: Backend, model_name: str) -> None:
        self._backend = backend
        # Otherwise every series gets a line that says when it began, which nobody needs.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        self._requests = counter("rowspan_http_requests", "Requests, by route and status.", ["endpoint", "status"])
        self._errors = counter("rowspan_errors", "Errors that clients got, by code.", ["code"])
        self._answers = counter("rowspan_answers", "Answers that ended, by reason.", ["finish"])
        self._prompt_tokens = counter("rowspan_prompt_tokens", "Tokens of prompts, computed or found in a cache.")
        self._generated_tokens = counter("rowspan_generated_tokens", "Tokens generated.")
        self._first_token = histogram(
            "rowspan_time_to_first_token_seconds",
            "From a request's arrival to the first token of an answer.",
            buckets=FIRST_TOKEN,
        )
        self._between_tokens = histogram(
            "rowspan_inter_token_latency_seconds", "Between two tokens of an answer.", buckets=BETWEEN_TOKENS
        )
        self._whole_answer = histogram(
            "rowspan_request_duration_seconds",
            "From a request's arrival to the end of an answer that was finished.",
            buckets=WHOLE_ANSWER,
        )
        self._now = _Now(backend, model_name)
        registry.register(self._now)
        ProcessCollector(registry=registry)

    def count(self, endpoint: str, status: int, error: str | None) -> None:
        """Count a finished request. endpoint: a route's path. error: the code of the error that the client got."""
        self._requests.labels(endpoint, status).inc()
        if error is not None:
            self._errors.labels(error).inc()

    def count_prompt_tokens(self, tokens: int) -> None:
        """Count tokens of texts that are embedded. Those of prompts are counted with their answers."""
        self._prompt_tokens.inc(tokens)

    @contextmanager
    def answer(self, prompt_tokens: int, arrived: float) -> Iterator[Callable[[Piece], None]]:
        """Measure an answer while it is computed. Yields a function to be called with every piece of the answer.

        Args:
            arrived: when the request arrived, by time.perf_counter().
        """
        self._now.waiting += 1
        generated, last, finish = 0, arrived, FinishReason.CANCELLED

        def note(piece: Piece) -> None:
            nonlocal generated, last, finish
            fresh = piece.generated - generated
            if fresh:
                now = time.perf_counter()
                if not generated:
                    self._now.begin_running()
                    self._prompt_tokens.inc(prompt_tokens)
                    self._first_token.observe(now - arrived)
                else:
                    for _ in range(fresh):  # nearly always one; several that come at once share the time
                        self._between_tokens.observe((now - last) / fresh)
                self._generated_tokens.inc(fresh)
                generated, last = piece.generated, now
            if piece.finish is not None:
                finish = piece.finish
                self._whole_answer.observe(time.perf_counter() - arrived)

        try:
            yield note
        except Exception:
            finish = FinishReason.ERROR
            raise
        finally:
            self._now.end(running=generated > 0)
            self._answers.labels(finish).inc()

    async def families(self) -> list[Metric]:
        """All metrics at present, as data."""
        self._now.stats = await self._backend.stats()
        return list(self._registry.collect())

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The page, and its content type. Args: accept: the formats that the client can read, from its Accept
        header.
        """
        self._now.stats = await self._backend.stats()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


Ended = Callable[[Scope, int, float], None]


def _nobody(scope: Scope, status: int, seconds: float) -> None:
    """Nobody wants to know of requests that have ended."""


class RequestCount:
    """Plain ASGI middleware around everything else: notes when each request arrived, and counts how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str], ended: Ended = _nobody) -> None:
        """Wrap an app.

        Args:
            ended: is told of every request that has ended: its scope, its status and how many seconds it took.
            endpoints: paths to count by, for requests that are refused before a route sees them.
        """
        self._app = app
        self._metrics = metrics
        self._endpoints = endpoints
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[ARRIVED] = time.perf_counter()
        status = CLIENT_CLOSED_REQUEST  # unless a response sets another status
        ended = False

        async def noting_send(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = True
                self._count(scope, status)  # before the client knows, and asks for figures
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:  # an outer handler answers it
            status, scope[ERROR_CODE] = 500, RowspanError.code
            raise
        finally:
            if not ended:
                self._count(scope, status)

    def _count(self, scope: Scope, status: int) -> None:
        route, path = scope.get("route"), scope["path"]
        endpoint = str(route.path) if route is not None else path if path in self._endpoints else OTHER
        self._metrics.count(endpoint, status, scope.get(ERROR_CODE))
        self._ended(scope, status, time.perf_counter() - scope[ARRIVED])


class _Now(Collector):
    """Collects the present state, and the backend's own counters, at the moment of a scrape."""

    def __init__(self, backend: Backend, model_name: str) -> None:
        self._backend = backend
        self._model_name = model_name
        self.waiting = self.running = 0  # number of answers without and with a token
        self.stats: BackendStats | None = None

    def begin_running(self) -> None:
        self.waiting -= 1
        self.running += 1

    def end(self, *, running: bool) -> None:
        if running:
            self.running -= 1
        else:
            self.waiting -= 1

    def collect(self) -> Iterable[Metric]:
        about = {
            "version": importlib.metadata.version("rowspan"),
            "backend": self._backend.name,
            "backend_version": self._backend.version,
            "model": self._model_name,
        }
        yield InfoMetricFamily("rowspan_build", "Who serves what.", about)
        state = self._backend.health().state
        states = GaugeMetricFamily("rowspan_backend_state", "1 for the state that the backend is in.", labels=["state"])
        for each in HealthState:
            states.add_metric([each], float(each == state))
        yield states
        yield GaugeMetricFamily("rowspan_requests_running", "Answers under way, with a token.", self.running)
        yield GaugeMetricFamily("rowspan_requests_waiting", "Answers that have no token yet.", self.waiting)
        if self.stats is not None:
            yield from _told(self.stats)


def _told(stats: BackendStats) -> Iterable[Metric]:
    yield GaugeMetricFamily("rowspan_kv_blocks", "Blocks of the KV cache.", stats.blocks_total)
    yield GaugeMetricFamily("rowspan_kv_blocks_used", "Those of running requests.", stats.blocks_used)
    yield GaugeMetricFamily(
        "rowspan_kv_blocks_cached", "Free ones whose content can be used again.", stats.blocks_cached
    )
    hits = "Tokens of prompts that were found in the KV cache, since the backend was last started."
    yield CounterMetricFamily("rowspan_prefix_hit_tokens", hits, stats.prefix_hits)
    guessed = "Tokens that were guessed before they were computed, since the backend was last started."
    yield CounterMetricFamily("rowspan_guessed_tokens", guessed, stats.guessed_tokens)
    yield CounterMetricFamily("rowspan_right_guesses", "Those of them that were right.", stats.right_guesses)
    preempted = "Times that a request gave its blocks to an older one, since the backend was last started."
    yield CounterMetricFamily("rowspan_preemptions", preempted, stats.preemptions)


def metrics_routes(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get(PATH, summary="Numbers for Prometheus", response_class=Response)
    async def page(request: Request) -> Response:
        body, content_type = await metrics.text(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return router
