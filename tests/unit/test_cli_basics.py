"""The command line as its users meet it: its exit status, what it prints where."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kit.command_line import PROGRAM, run_as_process, run_here

from rowspan.cli.progress import LineProgress

HEAVY = ("torch", "numpy", "rich", "httpx", "huggingface_hub", "fastapi", "prometheus_client", "transformers")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "ROWSPAN_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a GGUF file on a local server."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(b"GGUF" + bytes(200_000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/tiny.gguf"
    server.shutdown()
    thread.join()
    server.server_close()


def test_help_is_quick_to_import() -> None:
    code = f"import rowspan.cli.main, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_help() -> None:
    assert run_here("--version").stdout.strip() == f"rowspan {importlib.metadata.version('rowspan')}"
    shown = run_here("--help")
    assert shown.returncode == 0
    assert "pull" in shown.stdout


@pytest.mark.parametrize("arguments", [("nonsense",), ("pull",), ("models", "--nonsense")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = run_here(*arguments)
    assert done.returncode == 2
    assert "--help" in done.stderr
    assert done.stdout == ""


def test_an_unknown_model_is_explained_without_a_traceback(environment: dict[str, str]) -> None:
    done = run_as_process("pull", "smolm2:135m", environment=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: There is no model named 'smolm2:135m'.\n")
    assert "Fix: Did you mean smollm2:135m" in done.stderr
    assert "Traceback" not in done.stderr


def test_pull_prints_the_path_and_models_lists_it(environment: dict[str, str], address: str) -> None:
    done = run_here("pull", address, environment=environment)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.removesuffix("\n"))
    assert path.stat().st_size == 200_004
    assert f"Fetching {address}: 100 %" in done.stderr
    listed = json.loads(run_here("models", "--json", environment=environment).stdout)
    assert [model["path"] for model in listed["installed"]] == [str(path)]
    assert {"name", "aliases", "source", "license", "gigabytes", "installed"} == set(listed["catalog"][0])
    table = run_here("models", environment=environment).stdout
    assert str(path) in table
    assert "smollm2:135m" in table


def test_a_terminal_gets_a_bar(environment: dict[str, str], address: str) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "pull", address],
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux's way to say that the other side is closed
        pass
    os.close(ours)
    assert child.wait(60) == 0
    assert "━" in shown.decode()
    assert "200.0" in shown.decode()


def test_ctrl_c_is_quiet_and_exits_with_130(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.gguf"
        child = subprocess.Popen(
            [*PROGRAM, "pull", address],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it may be ignored
        )
        connection, _ = silent.accept()
        connection.recv(1)  # it has asked, and waits for an answer now
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        connection.close()
    assert child.returncode == 130
    assert "Traceback" not in errors


def test_a_closed_pipe_is_no_traceback(environment: dict[str, str]) -> None:
    command = f"{shlex.join(PROGRAM)} models | true"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_lines_come_at_every_tenth_of_the_way() -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append)
    progress.start("Fetching x", 1000)
    for done in (0, 99, 100, 150, 199, 555, 1000, 1000):
        progress.advance_to(done)
    progress.finish()
    assert lines == [
        "Fetching x (1.0 kB)",
        "Fetching x: 10 %",
        "Fetching x: 50 %",
        "Fetching x: 100 %",
    ]


def test_without_a_size_lines_come_every_ten_seconds() -> None:
    lines: list[str] = []
    now = [100.0]
    progress = LineProgress(lines.append, clock=lambda: now[0])
    progress.start("Fetching x", None)
    for seconds in range(35):
        now[0] = 100.0 + seconds
        progress.advance_to(seconds * 1000)
    assert lines == ["Fetching x", "Fetching x: 10.0 kB", "Fetching x: 20.0 kB", "Fetching x: 30.0 kB"]
