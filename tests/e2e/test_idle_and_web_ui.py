"""Sleep while nobody asks, and Open WebUI beside the server (a stand-in for it: the real one takes 3 GB)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kit.backends import fake_backend, setup_for
from kit.http_server import eventually, serving

from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import Backend, HealthState, LoadWatch
from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.plan.split_mode import SplitMode

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
ROWSPAN = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]

WEB_UI = """#!{python}
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["OPENAI_API_BASE_URLS"].encode() + b" " + os.environ["OPENAI_API_KEYS"].encode())

assert sys.argv[1:4] == ["serve", "--host", "127.0.0.1"], sys.argv
HTTPServer(("127.0.0.1", int(sys.argv[5])), Handler).serve_forever()
"""


@pytest.fixture(params=["native", "llamacpp"])
def backend(request: pytest.FixtureRequest, tiny_path: Path, tmp_path: Path) -> Backend:
    if request.param == "native":
        return NativeBackend(make_blueprint(EngineConfig(tiny_path, split_mode=SplitMode.NONE, parallel=2, threads=1)))
    return fake_backend(setup_for(tiny_path, tmp_path, context_size=512))


def test_it_sleeps_while_nobody_asks_and_wakes_for_a_request(backend: Backend) -> None:
    before = set(psutil.Process().children())
    backend.start(LoadWatch())
    try:
        with serving(backend, ServerConfig(sleep_idle_seconds=0.5)) as server, server.client() as http:
            for _ in range(2):
                body: dict[str, Any] = {"messages": HELLO, "max_tokens": 3}
                assert http.post(CHAT, json=body).json()["usage"]["completion_tokens"] == 3
                assert eventually(lambda: backend.health().state == HealthState.ASLEEP)
                assert eventually(lambda: set(psutil.Process().children()) <= before), "nothing holds a device"
                assert http.get("/health").json() == {"status": "ok"}
                assert http.get("/v1/models").status_code == 200
                assert backend.health().state == HealthState.ASLEEP, "looking wakes nothing"
    finally:
        backend.stop()


def test_it_stays_awake_while_it_answers(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TOKEN_SECONDS", "0.4")
    backend = fake_backend(setup_for(tiny_path, tmp_path, context_size=512))
    backend.start(LoadWatch())
    try:
        with serving(backend, ServerConfig(sleep_idle_seconds=0.3)) as server, server.client() as http:
            answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 5}).json()
        assert answer["usage"]["completion_tokens"] == 5
    finally:
        backend.stop()


def test_open_webui_beside_the_server(tiny_path: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "open-webui"
    program.parent.mkdir()
    program.write_text(WEB_UI.format(python=sys.executable))
    program.chmod(0o755)
    port = 18000 + os.getpid() % 10000
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "ROWSPAN_LOGS": str(tmp_path)}
    options = ["--port", "0", "-c", "512", "-np", "2", "-t", "1", "--api-key", "secret"]
    options += ["--open-webui", "--open-webui-port", str(port)]
    with subprocess.Popen(
        [*ROWSPAN, "serve", str(tiny_path), *options], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr is not None
        lines: list[str] = []
        while not (any("Open WebUI" in line for line in lines) and any("API at" in line for line in lines)):
            line = server.stderr.readline()
            assert line, lines
            lines.append(line)
        assert f"Open WebUI is at http://127.0.0.1:{port}/\n" in lines
        (address,) = (line.split("API at ")[1].strip() for line in lines if "API at" in line)
        assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == f"{address} secret"
        family = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert eventually(lambda: not any(process.is_running() for process in family))


def test_open_webui_missing(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [*ROWSPAN, "serve", "--open-webui"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 2
    assert "pip install open-webui" in done.stderr.replace("\n", " ")
    assert time.monotonic() - began < 30, "before the model is loaded"
