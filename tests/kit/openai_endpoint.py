"""A small OpenAI endpoint that does as it is told, also what real ones do not: nonsense, refusals, wrong counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Endpoint:
    """url: of the running one. tokens: of every answer; they come `pause` seconds apart, the first after `first`.

    usage_error: added to the count that it tells. cached: tokens of the prompt that it had computed before.
    body: sent instead of a stream. status, fail_every: of refusals.
    requests: what was asked, in order. most: how many were being answered at once.
    """

    url: str = ""
    tokens: int = 5
    first: float = 0.0
    pause: float = 0.0
    models: tuple[str, ...] = ("fake",)
    usage: bool = True
    usage_error: int = 0
    cached: int | None = None
    logprobs: bool = True
    body: str | None = None
    models_body: str | None = None
    status: int = 200
    fail_every: int = 0
    break_off: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def answering(endpoint: Endpoint) -> Iterator[Endpoint]:
    """It, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            listed = json.dumps({"data": [{"id": name} for name in endpoint.models]})
            self._send(200, endpoint.models_body or listed)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with endpoint._lock:
                endpoint.requests.append(asked)
                number = len(endpoint.requests)
                endpoint._running += 1
                endpoint.most = max(endpoint.most, endpoint._running)
            try:
                self._answer(asked, number)
            finally:
                with endpoint._lock:
                    endpoint._running -= 1

        def _answer(self, asked: dict[str, Any], number: int) -> None:
            if asked.get("logprobs") and not endpoint.logprobs:
                return self._send(400, json.dumps({"error": {"message": "no logprobs here"}}))
            if endpoint.status != 200 or (endpoint.fail_every and number % endpoint.fail_every == 0):
                status = endpoint.status if endpoint.status != 200 else 503
                return self._send(status, json.dumps({"error": {"message": "not now"}}))
            if endpoint.body is not None:
                return self._send(200, endpoint.body)
            self.send_response(200)
            self.end_headers()
            time.sleep(endpoint.first)
            count = min(endpoint.tokens, asked["max_tokens"])
            for place in range(count):
                time.sleep(endpoint.pause if place else 0.0)
                if endpoint.break_off and place:
                    return self._event({"error": {"message": "out of memory"}})
                self._event({"choices": [self._choice(asked)]})
            if endpoint.usage:
                details = None if endpoint.cached is None else {"cached_tokens": endpoint.cached}
                tokens = {"prompt_tokens": 7, "completion_tokens": count + endpoint.usage_error}
                usage = {**tokens, "prompt_tokens_details": details}
                self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
            return None

        def _choice(self, asked: dict[str, Any]) -> dict[str, Any]:
            names = {"content": [{"token": "a"}]} if asked.get("logprobs") else None
            if "messages" in asked:
                return {"delta": {"content": "a"}, "logprobs": names}
            return {"text": "a", "logprobs": {"tokens": ["a"]} if names else None}

        def _event(self, data: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
