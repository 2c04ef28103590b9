"""`rowspan serve` on two hosts, which are network namespaces: the same answers as one device gives, and what becomes of
requests when a host goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually
from kit.two_hosts import Host, two_hosts

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams

ROWSPAN = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]
MODEL = TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=384, n_layers=6, context_length=512)
PROMPT = list(range(40, 80))
ENVIRONMENT = os.environ | {"ROWSPAN_CLUSTER_KEY": "of these tests only", "NO_COLOR": "1"}
PORT, MEETING_PORT = 8000, 29400
START_SECONDS = 90  # torch is imported on the way, on as few cores as there are
LOST_SECONDS = 10  # within which requests end when a host vanishes

Answer = tuple[str, list[float]]
"""Text, and the log-probabilities of its tokens."""


class Rowspan:
    """A host's `rowspan serve`, with what it says."""

    def __init__(self, host: Host, log: Path, command: list[str]) -> None:
        self._log = log
        with log.open("a") as output:
            self.process = host.start(
                command,
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, word: str) -> bool:
        """Whether it does in time, and does not end instead."""
        eventually(lambda: word in self.log or self.process.poll() is not None, START_SECONDS)
        return word in self.log

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


class Pair:
    """Two hosts with two CPU devices each; the first serves."""

    def __init__(self, hosts: tuple[Host, Host], model: Path, folder: Path) -> None:
        self.hosts = hosts
        self._folder = folder
        self._serve = [*ROWSPAN, "serve", str(model), "--devices", "cpu:0,cpu:1", "-t", "2", "--dtype", "float32"]
        self._meet = ["--nnodes", "2", "--rdzv", f"{hosts[0].address}:{MEETING_PORT}", "--node-rank"]
        self.start_other()

    def start_other(self) -> None:
        self.other = Rowspan(self.hosts[1], self._folder / "other.log", [*self._serve, *self._meet, "1"])

    @contextmanager
    def serving(self, mode: str) -> Iterator[Rowspan]:
        command = [*self._serve, *self._meet, "0", "-sm", mode, "--port", str(PORT)]
        log = self._folder / f"head {len(list(self._folder.iterdir()))}.log"
        head = Rowspan(self.hosts[0], log, command)
        try:
            assert head.says("is served"), head.log
            yield head
        finally:
            head.stop()

    def ask(self) -> Answer:
        """An answer of 16 tokens. Raises httpx.HTTPStatusError."""
        return self.hosts[0].do(_complete)

    def ask_until(self, act: Callable[[], object]) -> float:
        """Do something in the middle of a long answer, which is to end with an error: how soon, in seconds."""
        return self.hosts[0].do(_stream, act)


def _client(port: int = PORT) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_SECONDS, trust_env=False)


def _complete(port: int = PORT) -> Answer:
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    with _client(port) as client:
        response = client.post("/v1/completions", json=body)
        response.raise_for_status()
        choice = response.json()["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]


def _stream(act: Callable[[], object]) -> float:
    body = {"prompt": PROMPT, "max_tokens": 460, "temperature": 0, "ignore_eos": True, "stream": True}
    with _client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(5):
            next(lines)
        act()
        began = time.monotonic()
        *_, last = lines
    assert "error" in json.loads(last.removeprefix("data: ")), last
    return time.monotonic() - began


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def expected(model_path: Path) -> Answer:
    """What one device answers."""
    config = EngineConfig(model_path, split_mode=SplitMode.NONE, dtype="float32", threads=1)
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=0)
    with Engine.open(config) as engine:
        pieces = list(engine.generate(PROMPT, params, continuation=True))
    logprobs = [token.logprob for piece in pieces for token in piece.tokens]
    return "".join(piece.text for piece in pieces), [logprob for logprob in logprobs if logprob is not None]


@pytest.fixture
def pair(model_path: Path, tmp_path: Path) -> Iterator[Pair]:
    try:
        network = two_hosts()
        hosts = network.__enter__()
    except PermissionError as error:
        pytest.skip(f"network namespaces: {error}")
    try:
        pair = Pair(hosts, model_path, tmp_path)
        yield pair
        assert pair.other.process.poll() is None, pair.other.log
        assert pair.other.stop() == 128 + signal.SIGTERM
        assert eventually(lambda: not any(host.processes() for host in hosts)), "somebody is left behind"
    finally:
        for host in hosts:
            for pid in host.processes():
                os.kill(pid, signal.SIGKILL)
        network.__exit__(None, None, None)


def alike(answer: Answer, expected: Answer) -> bool:
    return answer[0] == expected[0] and answer[1] == pytest.approx(expected[1], abs=1e-3)


def test_rows_on_each_host_and_a_host_that_goes_away_and_comes_back(pair: Pair, expected: Answer) -> None:
    with pair.serving("row") as head:
        assert re.search(r"stage.tp_rank +0.0 +0.1 +1.0 +1.1", head.log), "two stages of two ranks"
        assert alike(pair.ask(), expected)

        assert pair.ask_until(lambda: pair.other.stop(signal.SIGKILL)) < LOST_SECONDS
        assert "hung up" in head.log
        pair.start_other()
        assert alike(pair.ask(), expected), "the next request waits for the host to be back"

        assert pair.ask_until(pair.hosts[1].cut) < LOST_SECONDS, "the cable is pulled"
        assert "does not answer" in head.log
        pair.hosts[1].mend()
        assert alike(pair.ask(), expected)
    assert pair.other.says("The head hung up"), "and the host waits for the next one"


@pytest.mark.heavy
def test_layers_and_ranks_that_die_or_hang(pair: Pair, expected: Answer) -> None:
    def last_rank() -> psutil.Process:
        return psutil.Process(pair.other.process.pid).children()[-1]

    with pair.serving("layer") as head:
        assert re.search(r"stage.tp_rank +0.0 +1.0 +2.0 +3.0", head.log), "four stages"
        assert alike(pair.ask(), expected)
    with pair.serving("layer") as head:  # another head finds the same other host
        assert pair.ask_until(lambda: last_rank().kill()) < LOST_SECONDS
        assert "10.211.0.2): The worker of rank 3 was killed by signal 9" in head.log
        assert alike(pair.ask(), expected)

        assert pair.ask_until(lambda: last_rank().suspend()) < 2 * LOST_SECONDS
        assert "has done nothing" in head.log
        assert alike(pair.ask(), expected)


def test_another_model_file_is_refused_and_the_head_waits_on(model_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    fine_tuned = replace(MODEL, seed=1).write(tmp_path / "tiny.gguf")
    log = tmp_path / "log"
    with log.open("w") as output:
        head, other = (
            subprocess.Popen(
                [*ROWSPAN, "serve", str(path), "--nnodes", "2", "--rdzv", place, "--node-rank", number, "--port", "0"],
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
            )
            for number, path in [("0", model_path), ("1", fine_tuned)]
        )
    try:
        assert other.wait(START_SECONDS) == 2
        assert head.poll() is None
        assert log.read_text().count("another model file") == 2, "both say so"
    finally:
        head.terminate()
        other.kill()
    assert head.wait(30) == 128 + signal.SIGTERM
    assert "Traceback" not in log.read_text()


@pytest.mark.heavy
def test_torchrun_says_which_hosts_there_are(model_path: Path, expected: Answer, tmp_path: Path) -> None:
    """One process on each of two hosts, whose store has the address that the head would take."""
    with socket.create_server(("127.0.0.1", 0)) as store, socket.create_server(("127.0.0.1", 0)) as api:
        place, port = (f"127.0.0.1:{store.getsockname()[1]}", api.getsockname()[1])
    script = tmp_path / "run_rowspan.py"
    script.write_text(ROWSPAN[-1])
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    serve = [str(script), "serve", str(model_path), "-t", "1", "--dtype", "float32", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [*torchrun, *meet, *serve]
        launchers = [subprocess.Popen(command, stdout=output, stderr=output, env=ENVIRONMENT) for _ in range(2)]
    try:
        assert eventually(lambda: "is served" in log.read_text(), START_SECONDS), log.read_text()
        processes = [psutil.Process(launcher.pid) for launcher in launchers]
        started = [child for process in processes for child in process.children(recursive=True)]
        assert alike(_complete(port), expected)
    finally:
        for launcher in launchers:
            launcher.terminate()
    for launcher in launchers:
        launcher.wait(60)
    assert eventually(lambda: not any(child.is_running() for child in started)), "somebody is left behind"
