"""`rowspan serve` and `rowspan run` as child processes: starting, stopping, and refusing to start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually

from rowspan.config import EngineConfig, ServerConfig
from rowspan.kernels.isa import TORCH, available_isas

ROWSPAN = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]
SMALL = ["-c", "2048", "-np", "2", "-ub", "64", "-t", "1"]
CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "stream": True}


def rowspan(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        [*ROWSPAN, *arguments], capture_output=True, text=True, timeout=120, check=False, env=_environment(), **options
    )


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **more}


@contextmanager
def starting(path: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`rowspan serve` on a free port, from its beginning; killed at the end if it still runs."""
    with subprocess.Popen(
        [*ROWSPAN, "serve", str(path), "--port", "0", *SMALL, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=_environment(**environment),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(path: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The same once it has printed its address."""
    with starting(path, *arguments, **environment) as process:
        assert process.stderr is not None
        log = ""
        while not (found := re.search(r"console at (http://\S+)/,", log)):
            line = process.stderr.readline()
            assert line, log
            log += line
        with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as http:
            yield process, http


def test_serve_drains_and_leaves_nothing_behind(tiny_path: Path) -> None:
    with serving(tiny_path, "--alias", "tiny", ROWSPAN_API_KEY="secret") as (process, http):
        assert http.get("/v1/models").status_code == 401
        http.headers["authorization"] = "Bearer secret"
        assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
        (worker,) = psutil.Process(process.pid).children()
        native = available_isas()[0] != TORCH
        for pid, has_torch in ((process.pid, False), (worker.pid, not native)):
            assert ("libtorch" in Path(f"/proc/{pid}/maps").read_text()) is has_torch

        with http.stream("POST", CHAT, json={**LONG, "max_tokens": 400}) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            process.send_signal(signal.SIGTERM)
            assert eventually(lambda: is_refused(http.base_url)), "new connections"
            assert [line for line in lines if line][-1] == "data: [DONE]", "the running answer is finished"
        assert process.wait(20) == 0
        assert eventually(lambda: not worker.is_running())


def is_refused(address: httpx.URL) -> bool:
    try:
        socket.create_connection((address.host, address.port or 0), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_drain_has_its_limit_and_a_second_signal_ends_at_once(tiny_path: Path) -> None:
    def stop(seconds: str, *signals: signal.Signals) -> tuple[int, float, str]:
        with serving(tiny_path, "--drain-seconds", seconds) as (process, http), ThreadPoolExecutor() as pool:
            (worker,) = psutil.Process(process.pid).children()
            with http.stream("POST", CHAT, json={**LONG, "n": 16}) as response:
                lines = response.iter_lines()
                assert next(lines).startswith("data: ")
                reading = pool.submit(lambda: [line for line in lines if line][-1])
                began = time.monotonic()
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.3)
                code = process.wait(20)
                took = time.monotonic() - began
                assert eventually(lambda: not worker.is_running())
                return code, took, reading.result()

    code, _, last = stop("0.5", signal.SIGHUP)  # as when its terminal is closed
    assert code == 0
    assert '"error"' in last, "an answer that is cut off says so"
    code, took, _ = stop("60", signal.SIGTERM, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert took < 10


def test_a_signal_while_loading(tiny_path: Path) -> None:
    with starting(tiny_path) as process:
        workers: list[psutil.Process] = []

        def has_begun() -> bool:  # other children come and go
            with suppress(psutil.Error):
                children = psutil.Process(process.pid).children()
                workers[:] = [child for child in children if "rowspan.worker.main" in child.cmdline()]
            return bool(workers)

        assert eventually(has_begun, seconds=30)
        (worker,) = workers
        process.terminate()
        _, log = process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in log
        assert eventually(lambda: not worker.is_running())


def assert_explained(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """Refused in words: what it was about, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_port_in_use_is_found_first(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = rowspan("serve", str(tmp_path / "not looked for.gguf"), "--port", port)
        assert_explained(done, f"Port {port} is in use", "--port", f"process {os.getpid()}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "no.such.host.invalid"], ["no.such.host.invalid", "--host"]),
        (["--host", "192.0.2.1", "--port", "0"], ["192.0.2.1"]),
        (["--port", "70000"], ["--port"]),
        (["--devices", "tpu:0"], ["tpu:0", "cpu:0"]),
        (["--devices", "cpu:0,cpu:0"], ["twice"]),
        (["-sm", "diagonal"], ["diagonal", "row"]),
        (["-ts", "a,b"], ["a,b"]),
        (["-ctk", "q4_0"], ["q4_0", "f16"]),
        (["--dtype", "int7"], ["int7"]),
    ],
)
def test_wrong_options(arguments: list[str], words: list[str]) -> None:
    assert_explained(rowspan("serve", "nothing.gguf", *arguments), *words)


def test_wrong_models(tmp_path: Path, tiny_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_path.read_bytes()[:1000])
    alien = TinyModel(extra={"general.architecture": "alien"}).write(tmp_path / "alien.gguf")
    assert_explained(rowspan("serve", str(tmp_path / "none.gguf"), "--port", "0"), "none.gguf")
    assert_explained(rowspan("serve", str(broken), "--port", "0"), "broken.gguf", code=1)
    assert_explained(rowspan("serve", str(alien), "--port", "0"), "alien", code=1)
    assert_explained(rowspan("serve", str(tiny_path), "--port", "0", "-c", "99999"), "99999")
    assert_explained(rowspan("run", "no-such-model", "hello"), "no-such-model")
    assert_explained(rowspan("run", str(tiny_path), "  "), "empty")
    assert_explained(rowspan("run", str(tiny_path), stdin=""), "empty")


def test_run_answers_on_stdout(tiny_path: Path) -> None:
    """The prompt may be an argument or piped in; the split changes nothing."""
    options = [*SMALL, "--temp", "0", "--max-tokens", "12"]
    argument = rowspan("run", str(tiny_path), "hello world", *options)
    assert (argument.returncode, argument.stderr) == (0, "")
    assert len(argument.stdout.strip()) > 3
    piped = rowspan("run", str(tiny_path), *options, "--devices", "cpu:0,cpu:1", "-sm", "row", stdin="hello world")
    assert piped.stdout == argument.stdout


def test_help_tells_the_true_defaults() -> None:
    """The command line names defaults without importing where they are defined."""
    from rowspan.cli.engine_options import RENAMED, EngineOptions

    text = " ".join(rowspan("serve", "--help").stdout.split())
    for option, config, field in [
        ("--port", ServerConfig, "port"),
        ("--host", ServerConfig, "host"),
        ("--max-waiting", ServerConfig, "max_waiting"),
        ("--drain-seconds", ServerConfig, "drain_seconds"),
        ("--parallel", EngineConfig, "parallel"),
        ("--ubatch-size", EngineConfig, "token_budget"),
        ("--split-mode", EngineConfig, "split_mode"),
    ]:
        shown = re.search(rf"{option} <.*?\[default: ([^\];]*)", text)
        assert shown is not None, option
        assert shown[1] == str(getattr(config, field)).removesuffix(".0"), option
    assert f"[default: {EngineConfig.devices[0]}]" in text
    named = {RENAMED.get(field.name, field.name) for field in fields(EngineOptions)}
    assert named <= {field.name for field in fields(EngineConfig)}
