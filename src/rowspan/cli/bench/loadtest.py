"""`rowspan loadtest`: runs many clients at once against any OpenAI endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rowspan.bench.load.drive import LoadOutcome
    from rowspan.bench.load.procedure import Test

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def loadtest(
    url: Annotated[str, typer.Argument(help="http://HOST:PORT, with or without /v1.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="[default: the endpoint's only one]")] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", envvar="ROWSPAN_API_KEY")] = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="How many.")] = 64,
    clients: Annotated[int, typer.Option("--clients", "-c", min=1, help="Closed loop: so many at once.")] = 8,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Open loop instead: requests a second, at random moments.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer.")] = 128,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Always generate so many, where it is known.")
    ] = False,
    prompt_words: Annotated[int, typer.Option("--prompt-words", min=1, help="3 words are about 4 tokens.")] = 200,
    shared: Annotated[
        float, typer.Option("--shared", min=0.0, max=1.0, help="Share of the prompts that begin alike.")
    ] = 0.0,
    prefixes: Annotated[int, typer.Option("--prefixes", min=1, help="How many such beginnings there are.")] = 1,
    prefix_words: Annotated[int, typer.Option("--prefix-words", min=1, help="Their length.")] = 100,
    text: Annotated[
        Path | None, typer.Option("--text", help="Take prompts from this file. [default: a novel's]")
    ] = None,
    slo: Annotated[str, typer.Option("--slo", help="What is good enough: ttft<500ms,tpot<50ms,e2e<10s.")] = "",
    completions: Annotated[bool, typer.Option("--completions", help="/v1/completions instead of chat.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds without a sign of life.")] = 120.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of prompts and moments; the same prompts again meet a cache. [default: another each time]"
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the distributions as a chart.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; with every request's times.")] = False,
) -> None:
    """Put load on an OpenAI endpoint: time to first token, latency between tokens, throughput, goodput.

    Closed loop (--clients): as much as the server can do. Open loop (--rate): what people wait for who come when they
    like. Before that, one request checks that the endpoint counts its tokens rightly. Exits with 1 if a request failed,
    and with 130 after Ctrl-C, which shows what was measured until then.
    """
    import asyncio
    import secrets

    from rowspan.bench.load.procedure import Test, run
    from rowspan.bench.load.prompts import Mix, prompts, read_text
    from rowspan.bench.load.summary import Goals

    goals = Goals.parse(slo)
    seed = secrets.randbits(31) if seed is None else seed
    asked = prompts(read_text(text), requests, Mix(prompt_words, shared, prefixes, prefix_words), seed)
    body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0, "seed": seed}
    body |= {"ignore_eos": True} if ignore_eos else {}
    test = Test(url, model, api_key, asked, body, clients, rate, not completions, timeout, seed)
    with _Shown(requests) as shown:
        result = asyncio.run(run(test, shown))
    answer = result.summary(goals, is_local=any(f"//{host}" in url for host in LOCAL))
    _print_json(answer, result.outcome) if as_json else _print(answer, test)
    if plot is not None and result.outcome.answers:
        from rowspan.bench.load.chart import draw

        draw(result.outcome.answers, goals, f"{result.model} at {url}, {_how(test)}", plot)
    if result.interrupted:
        typer.echo(f"Interrupted: {result.outcome.done} of {requests} requests were answered.", err=True)
        raise typer.Exit(130)
    if result.outcome.failures:
        raise typer.Exit(1)


def _how(test: Test) -> str:
    return f"{test.rate:g} requests/s, at random" if test.rate else f"{test.clients} clients"


class _Shown:
    """Shows the test's progress on stderr, if that is a terminal."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (MofNCompleteColumn(), BarColumn(24), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("checking the endpoint", total=total)

    def __call__(self, done: int, text: str) -> None:
        self._bar.update(self._task, completed=done, description=text)

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


def _print_json(answer: dict[str, Any], outcome: LoadOutcome) -> None:
    import json

    single = [
        {
            "started": one.started,
            "ttft": one.first,
            "itl": one.gaps,
            "tpot": one.between,
            "e2e": one.whole,
            "prompt_tokens": one.prompt_tokens,
            "generated_tokens": one.generated_tokens,
        }
        for one in outcome.answers
    ]
    typer.echo(json.dumps({**answer, "answers": single}, indent=2))


def _print(answer: dict[str, Any], test: Test) -> None:
    from rowspan.bench.load.summary import MEASURES, PERCENTILES
    from rowspan.cli.console_output import print_table

    for problem in answer["usage_problems"]:
        typer.echo(f"- {problem}")
    names = ("mean", *(f"p{each}" for each in PERCENTILES), "max")
    rows = [(label, *(_time(answer[name][each]) for each in names)) for name, label in MEASURES.items() if answer[name]]
    print_table(f"{answer['model']}: {_count(answer, test)}, {_how(test)}", ("", *(n.upper() for n in names)), rows)
    if answer["generated_tokens_per_second"]:
        rate, tokens = answer["requests_per_second"], answer["generated_tokens_per_second"]
        typer.echo(f"{tokens:.1f} generated tokens/s, {rate:.2f} requests/s, {answer['seconds']:.1f} s in all")
    if answer["prompt_tokens"] is not None:
        mean, rate = answer["prompt_tokens"] / answer["answered"], answer["prompt_tokens_per_second"]
        typer.echo(
            f"{mean:.0f} prompt tokens and {answer['generated_tokens'] / answer['answered']:.0f} generated ones each; "
            f"{rate:.1f} prompt tokens/s"
        )
    if answer["cached_tokens"]:
        share = answer["cached_tokens"] / answer["prompt_tokens"]
        typer.echo(f"{share:.0%} of the prompts' tokens were in the endpoint's cache, and took no time")
    if answer["good"] is not None:
        goals = ", ".join(f"{name} < {_time(limit)}" for name, limit in answer["goals"].items())
        share = answer["good"] / answer["requests"]
        rate = answer["goodput_requests_per_second"] or 0.0
        typer.echo(f"Goodput: {rate:.2f} requests/s; {share:.0%} were within {goals}")
    if answer["joules_per_token"] is not None:
        typer.echo(f"{answer['joules_per_token']:.2f} J a token, of this whole machine")
    for failure, count in answer["failures"].items():
        typer.echo(f"{count} failed: {failure}", err=True)


def _count(answer: dict[str, Any], test: Test) -> str:
    total = f" of {len(test.prompts)}" if answer["interrupted"] else ""
    return f"{answer['answered']}{total} answers"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
