"""`rowspan selftest`: a sound server passes, and one that answers anything with the same text is found out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kit.http_server import RunningServer
from typer.testing import CliRunner

from rowspan.cli.main import app
from rowspan.errors import RowspanError
from rowspan.selftest.behaviour import Verdict
from rowspan.selftest.run import behaviours, run

TOO_RANDOM = "a stop string ends the answer, and is no part of it"  # for a model whose text may be empty


def test_this_server_behaves(server: RunningServer) -> None:
    results = list(run(server.url, behaviours()))
    failed = {one.behaviour.name: one.why for one in results if one.verdict is Verdict.FAILS}
    failed.pop(TOO_RANDOM, None)
    assert failed == {}
    assert sum(one.verdict is Verdict.HOLDS for one in results) >= 33


class Parrot(BaseHTTPRequestHandler):
    """Answers every request alike, well formed, whatever it asks for."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Polly wants a cracker"}
        choice = {"index": 0, "text": "Polly", "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 9}
        self._answer({"choices": [choice], "usage": usage, "tokens": [1], "content": "", "object": "response"})

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def parrot() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_that_only_looks_right_is_found_out(parrot: str) -> None:
    results = list(run(parrot, behaviours()))
    held = {one.behaviour.name for one in results if one.verdict is Verdict.HOLDS}
    assert held == {  # what such an answer does fulfil
        "the list of models names the one that is asked for",
        "a seed gives the same text twice",
        "tool_choice none: no call",
        "a conversation with calls and their results goes on",
        "content as a list of parts is text, too",
        "fields that nobody knows are no error",
        "a prompt of token ids means the text that they are of",
    }
    assert all(one.why for one in results if one.verdict is not Verdict.HOLDS)


def test_the_command_tells_what_holds(server: RunningServer, parrot: str) -> None:
    one = CliRunner().invoke(app, ["selftest", server.url, "--dialect", "anthropic"])
    assert one.exit_code == 0, one.output
    assert "4 of 4 hold, 0 do not, 0 are not there." in one.output
    other = CliRunner().invoke(app, ["selftest", parrot, "--dialect", "Ollama", "--json"])
    assert other.exit_code == 1
    assert {row["verdict"] for row in json.loads(other.output)} == {"FAILS"}
    for arguments, says in ((["127.0.0.1:9"], "lists no model"), ([parrot, "--dialect", "x"], "no dialect")):
        error = CliRunner().invoke(app, ["selftest", *arguments]).exception
        assert isinstance(error, RowspanError)
        assert says in str(error)
