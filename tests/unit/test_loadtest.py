"""Prompts, moments, statistics, and whole load tests against an endpoint of our own."""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.http_server import eventually
from kit.openai_endpoint import Endpoint, answering
from typer.testing import CliRunner

from rowspan.bench.load.drive import LoadOutcome, arrivals
from rowspan.bench.load.endpoint import Endpoint as Client
from rowspan.bench.load.endpoint import EndpointAnswer
from rowspan.bench.load.prompts import Mix, prompts, read_text
from rowspan.bench.load.summary import Goals, percentile, summary, usage_problems
from rowspan.cli.main import app
from rowspan.errors import RowspanError, UsageError

TEXT = read_text(None)


def test_prompts_are_other_stretches_of_the_text_and_the_same_again() -> None:
    found = prompts(TEXT, 20, Mix(words=30), seed=1)
    assert [len(prompt.split()) for prompt in found] == [30] * 20
    assert len(set(found)) == 20
    whole = " ".join(TEXT.split())
    assert all(prompt in whole for prompt in found)
    assert found == prompts(TEXT, 20, Mix(words=30), seed=1)
    assert found != prompts(TEXT, 20, Mix(words=30), seed=2)


def test_a_share_of_the_prompts_begins_alike() -> None:
    mix = Mix(words=40, shared=0.5, prefixes=2, prefix_words=25)
    found = prompts(TEXT, 400, mix)
    beginnings = [" ".join(prompt.split()[:25]) for prompt in found]
    common = [one for one in set(beginnings) if beginnings.count(one) > 20]
    assert len(common) == 2
    assert 0.4 < sum(beginnings.count(one) for one in common) / 400 < 0.6
    assert all(len(prompt.split()) == 40 for prompt in found)


def test_prompts_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        prompts("one two three", 1, Mix(words=2))
    with pytest.raises(UsageError, match="no room"):
        prompts(TEXT, 1, Mix(words=20, shared=0.5, prefix_words=20))
    with pytest.raises(UsageError, match="cannot be read"):
        read_text(tmp_path / "none.txt")


def test_arrivals_are_those_of_a_poisson_process() -> None:
    moments = arrivals(20_000, rate=4.0, seed=3)
    gaps = np.diff([0.0, *moments])
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert float(np.std(gaps)) == pytest.approx(0.25, rel=0.05), "as wide as it is long: exponential"
    assert moments == arrivals(20_000, rate=4.0, seed=3)


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50), percent=st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)


def answer(first: float, tokens: int, step: float, **counts: Any) -> EndpointAnswer:
    moments = [10.0 + first + step * place for place in range(tokens)]
    given = {"prompt_tokens": 7, "generated_tokens": tokens, "counted_tokens": None, **counts}
    return EndpointAnswer(10.0, moments, **given)


def test_goals() -> None:
    goals = Goals.parse("ttft<500ms, itl<0.05s")
    assert goals.limits == {"ttft": 0.5, "itl": 0.05}
    assert goals.met_by(answer(0.4, 3, 0.04))
    assert not goals.met_by(answer(0.6, 3, 0.04))
    assert not goals.met_by(answer(0.4, 3, 0.06))
    assert goals.met_by(answer(0.4, 1, 0.0)), "a single token waits for no other"
    for text in ("ttft", "ttft<5", "ttft<5h", "tps<5s"):
        with pytest.raises(UsageError, match="no goal"):
            Goals.parse(text)


def test_the_summary_counts_what_was_good() -> None:
    outcome = LoadOutcome([answer(0.1, 5, 0.1), answer(0.9, 5, 0.1)], [])
    found = summary(outcome, Goals.parse("ttft<500ms"), joules=20.0)
    assert found["seconds"] == pytest.approx(1.3)
    assert found["generated_tokens_per_second"] == pytest.approx(10 / 1.3)
    assert (found["good"], found["joules_per_token"]) == (1, 2.0)
    assert found["ttft"]["p50"] == pytest.approx(0.5)
    assert found["itl"]["p99"] == pytest.approx(0.1)
    assert summary(outcome, Goals({}), None)["joules_per_token"] is None


def test_a_stall_of_one_token_is_seen() -> None:
    """A mean of an answer would hide it."""
    smooth, stalled = answer(0.1, 101, 0.01), answer(0.1, 101, 0.01)
    late = [moment + 2.0 * (place > 50) for place, moment in enumerate(stalled.arrivals)]
    found = summary(LoadOutcome([smooth, replace(stalled, arrivals=late)], []), Goals({}), None)
    assert found["itl"]["max"] == pytest.approx(2.01)
    assert found["itl"]["p95"] == pytest.approx(0.01)
    assert found["tpot"]["max"] == pytest.approx(0.03)
    assert found["itl"]["mean"] == pytest.approx(found["tpot"]["mean"]) == pytest.approx(0.02)
    assert found["prompt_tokens_per_second"] == pytest.approx(14 / found["seconds"])


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"counted_tokens": 5}, []),
        ({"counted_tokens": 5, "generated_tokens": 6}, []),  # an end token
        ({"counted_tokens": 5, "generated_tokens": 9}, ["counts 9 generated tokens, and has named 5"]),
        ({"counted_tokens": 5, "generated_tokens": 4}, ["counts 4 generated tokens, and has named 5"]),
        ({"generated_tokens": 4}, ["has sent 5 parts"]),
        ({"generated_tokens": None}, ["does not count tokens"]),
        ({"counted_tokens": 20, "generated_tokens": 20}, ["at most 16"]),
    ],
)
def test_usage_is_checked_against_what_arrived(counts: dict[str, Any], says: list[str]) -> None:
    found = usage_problems(answer(0.1, 5, 0.1, **counts), 16)
    assert len(found) == len(says)
    assert all(part in text for part, text in zip(says, found, strict=True))


def loadtest(endpoint: Endpoint, *options: str) -> tuple[int, str]:
    with answering(endpoint):
        done = CliRunner().invoke(app, ["loadtest", endpoint.url, "-n", "12", "--prompt-words", "20", *options])
    if isinstance(done.exception, RowspanError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_a_closed_loop_keeps_so_many_going() -> None:
    endpoint = Endpoint(first=0.02, pause=0.002)
    status, output = loadtest(endpoint, "-c", "3", "--json")
    found = json.loads(output)
    assert status == 0
    assert endpoint.most == 3
    assert (found["requests"], found["generated_tokens"], found["prompt_tokens"]) == (12, 60, 84)
    assert found["usage_problems"] == []
    assert 0.02 <= found["ttft"]["p50"] < 0.2
    assert len(found["answers"]) == 12
    assert len({request["messages"][0]["content"] for request in endpoint.requests[1:]}) == 12


def test_an_open_loop_does_not_wait_for_answers() -> None:
    endpoint = Endpoint(first=0.3)
    status, output = loadtest(endpoint, "--rate", "60", "--json")
    assert status == 0
    assert endpoint.most >= 8, "they come within a fifth of a second, and each takes longer"
    assert json.loads(output)["seconds"] < 12 * 0.3


def test_the_table_and_the_chart(tmp_path: Path) -> None:
    plot = tmp_path / "load.png"
    status, output = loadtest(Endpoint(), "--slo", "ttft<5s,e2e<1ms", "--plot", str(plot), "--completions")
    assert status == 0, output
    assert "time to first token" in output
    assert "Goodput" in output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_each_run_has_prompts_of_its_own_and_what_was_cached_is_shown() -> None:
    first, second = Endpoint(), Endpoint(cached=6)
    assert "cache" not in loadtest(first)[1]
    assert "86% of the prompts' tokens were in the endpoint's cache" in loadtest(second)[1]
    asked = [{request["messages"][0]["content"] for request in one.requests} for one in (first, second)]
    assert len(asked[0] & asked[1]) <= 1, "by chance"
    again = [Endpoint(), Endpoint()]
    for one in again:
        loadtest(one, "--seed", "7", "-c", "1")
    assert again[0].requests == again[1].requests


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/completions", "/v1/models"])
def test_an_address_may_have_a_path_of_the_api(path: str) -> None:
    assert Client(f"http://host:8000/proxy{path}", None, 1.0).base == "http://host:8000/proxy"


def test_ctrl_c_says_how_much_was_done() -> None:
    with answering(Endpoint(first=0.05)) as endpoint:
        program = "from rowspan.cli.main import main; main()"
        command = [sys.executable, "-c", program, "loadtest", endpoint.url, "-n", "400", "-c", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert eventually(lambda: len(endpoint.requests) > 6)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert re.search(r"Interrupted: \d+ of 400 requests", errors)
    assert re.search(r"\d+ of 400 answers", output)


def test_an_endpoint_that_names_no_tokens_is_asked_without() -> None:
    endpoint = Endpoint(logprobs=False)
    assert loadtest(endpoint)[0] == 0
    assert [bool(request.get("logprobs")) for request in endpoint.requests[:3]] == [True, False, False]


def test_wrong_counts_are_told() -> None:
    assert "counts 9 generated tokens, and has named 5" in loadtest(Endpoint(usage_error=4))[1]
    assert "does not count tokens" in loadtest(Endpoint(usage=False))[1]


def test_some_failures_are_counted_and_fail_the_command() -> None:
    status, output = loadtest(Endpoint(fail_every=4), "-c", "1")
    assert status == 1
    assert "3 failed: " in output
    assert "not now" in output


@pytest.mark.parametrize(
    ("endpoint", "options", "status", "says"),
    [
        (Endpoint(body="<html>Welcome</html>"), (), 1, "empty"),
        (Endpoint(body="data: {}\n\n"), (), 1, "does not answer POST /v1/chat/completions as an OpenAI endpoint does"),
        (Endpoint(body="data: <html>\n\n"), (), 1, "It sent '<html>'"),
        (Endpoint(body="data: [DONE]\n\n"), (), 1, "No part of the stream held text"),
        (Endpoint(models_body="<html>Welcome</html>"), (), 1, "Check the address"),
        (Endpoint(models_body='{"data": 5}'), (), 1, "does not answer GET /v1/models"),
        (Endpoint(status=401), (), 1, "--api-key"),
        (Endpoint(status=500), (), 1, "answers with status 500"),
        (Endpoint(break_off=True), (), 1, "broke off an answer"),
        (Endpoint(models=("a", "b")), (), 2, "has 2 models: a, b"),
        (Endpoint(), ("--slo", "fast"), 2, "no goal"),
    ],
)
def test_what_makes_no_sense_is_explained(endpoint: Endpoint, options: tuple[str, ...], status: int, says: str) -> None:
    found, output = loadtest(endpoint, *options)
    assert (found, says in output) == (status, True), output


@pytest.mark.parametrize(("url", "says"), [("http://127.0.0.1:9", "Nobody answers"), ("host:8000", "no web address")])
def test_nobody_there(url: str, says: str) -> None:
    done = CliRunner().invoke(app, ["loadtest", url, "-n", "1"])
    assert isinstance(done.exception, RowspanError)
    assert says in str(done.exception)
