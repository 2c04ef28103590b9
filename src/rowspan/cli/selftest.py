"""`rowspan selftest URL`: which behaviours that clients rely on hold at a server, whoever made it."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer


def selftest(
    url: Annotated[str, typer.Argument(help="The server's address, such as http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="[default: the first one that it lists]")] = None,
    embedding_model: Annotated[str | None, typer.Option("--embedding-model", help="[default: the same]")] = None,
    rerank_model: Annotated[str | None, typer.Option("--rerank-model", help="[default: the same]")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Key to send. [default: the environment's ROWSPAN_API_KEY]")
    ] = None,
    dialect: Annotated[
        list[str] | None, typer.Option("--dialect", help="openai, anthropic, ollama or llama-server; repeat it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try what clients rely on: answers, streams, tools, schemas, errors, in four dialects.

    Works against any server that speaks OpenAI's API. Exits with 1 if something does not hold; what a server does not
    have at all is no failure.
    """
    from rowspan.selftest.behaviour import Verdict
    from rowspan.selftest.run import behaviours, run

    tried = behaviours(tuple(dialect or ()))
    key = api_key or os.environ.get("ROWSPAN_API_KEY")
    colors = {Verdict.HOLDS: "green", Verdict.FAILS: "red", Verdict.ABSENT: "yellow"}
    results = []
    for result in run(url, tried, model=model, embedder=embedding_model, reranker=rerank_model, key=key):
        results.append(result)
        if not as_json:
            mark = typer.style(f"{result.verdict:<10}", fg=colors[result.verdict], bold=True)
            typer.echo(f"{mark} {result.behaviour.dialect}: {result.behaviour.name}")
            if result.why:
                typer.echo(f"           {result.why}")
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    if as_json:
        rows = [(one.behaviour.dialect, one.behaviour.name, one.verdict.value, one.why) for one in results]
        names = ("dialect", "behaviour", "verdict", "why")
        typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
    else:
        typer.echo(
            f"\n{counts[Verdict.HOLDS]} of {len(results)} hold, {counts[Verdict.FAILS]} do not, "
            f"{counts[Verdict.ABSENT]} are not there."
        )
    raise typer.Exit(int(counts[Verdict.FAILS] > 0))
