"""`rowspan report`: writes stored results as one HTML page, and charts as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="r3, or last. [default: last]")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("rowspan-report"),
    every: Annotated[
        bool, typer.Option("--all", help="Every run there is; of tests measured twice, the last.")
    ] = False,
) -> None:
    """Draw results of `rowspan bench`: FOLDER/index.html, which needs nothing else, and FOLDER/*.png.

    Rates by engine and split, curves over depth and concurrency, the roofline with the results on it, what may be
    compared with what, all circumstances; and, apart from these, what others have published.
    """
    from rowspan.bench.report.html_page import page, parts
    from rowspan.bench.results.store import Store
    from rowspan.cli.bench.stored_runs import rows_of_run
    from rowspan.config import Paths
    from rowspan.errors import RowspanError, UsageError
    from rowspan.figures import has_matplotlib

    with Store(Paths.from_env().bench) as store:
        rows = store.rows() if every else [row for run in runs or ["last"] for row in rows_of_run(store, run)]
    if not rows:
        raise UsageError("There are no results yet.", fix="rowspan bench measures some.")
    shown = parts(rows)
    command = " ".join(["rowspan", "report", *(["--all"] if every else runs or ["last"])])
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "index.html").write_text(page(shown, command), encoding="utf-8")
        for part in shown:
            for chart in part.charts:
                (out / f"{chart.name}.png").write_bytes(chart.png())
    except OSError as error:
        raise RowspanError(
            f"The report cannot be written to {out}.", why=f"{error}.", fix="Choose another -o."
        ) from None
    for part in shown:
        for line in part.headline:
            typer.echo(f"{part.section.model}: {line}")
    typer.echo(f"{out / 'index.html'}, with {len(rows)} results")
    if not has_matplotlib():
        typer.echo("Charts need matplotlib, which is not installed: pip install 'rowspan[plot]'.", err=True)
