"""`rowspan compare`: whether two results may be compared, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rowspan.bench.results.compare import Comparison
    from rowspan.bench.results.store import Store

WHICH = "A row's number, or a run: r3; last and previous are runs, too."


def compare(
    before: Annotated[str | None, typer.Argument(metavar="A", help=WHICH)] = None,
    after: Annotated[str | None, typer.Argument(metavar="B", help="Likewise.")] = None,
    fail_below: Annotated[
        float | None,
        typer.Option(
            "--fail-below", min=0.0, help="Exit with 1 where B is, for sure, below so many % of A's rate: 95."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """May two results of `rowspan bench` be compared, and how much faster is B? Without A and B: what there is.

    Runs are compared row by row, those of the same work with the same options. With --fail-below, a change counts if
    its confidence interval leaves out "no change"; rows that may not be compared, or that have no counterpart, fail.
    """
    from rowspan.bench.results.compare import compare as compare_rows
    from rowspan.bench.results.store import Store
    from rowspan.config import Paths
    from rowspan.errors import UsageError

    with Store(Paths.from_env().bench) as store:
        if before is None:
            return _list(store)
        if after is None:
            raise UsageError("`rowspan compare` needs two results.", fix="rowspan compare previous last")
        pairs, alone = _pairs(store, before, after)
    comparisons = [(one, other, compare_rows(one, other)) for one, other in pairs]
    _print_json(comparisons, alone) if as_json else _print(comparisons, alone)
    if fail_below is not None and (alone or any(_fails(one, fail_below / 100) for _, _, one in comparisons)):
        raise typer.Exit(1)
    return None


def _fails(comparison: Comparison, least: float) -> bool:
    change = comparison.change
    return change is None or (change.ratio < least and change.certain)


def _pairs(
    store: Store, before: str, after: str
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[dict[str, Any]]]:
    """Pairs of rows to compare, and the rows of A that have no counterpart in B."""
    from rowspan.bench.results.compare import same_work
    from rowspan.cli.bench.stored_runs import rows_of
    from rowspan.errors import UsageError

    rows, others = rows_of(store, before), rows_of(store, after)
    if before.isdigit() and after.isdigit():
        return [(rows[0], others[0])], []
    found = [(row, same_work(row, others)) for row in rows]
    pairs = [(row, other) for row, other in found if other is not None]
    if not pairs:
        raise UsageError(
            f"{before} and {after} have no work in common.",
            why="No two rows are of the same model, engine, options and test.",
            fix="Compare two rows by their numbers: `rowspan compare` lists them.",
        )
    return pairs, [row for row, other in found if other is None]


def _list(store: Store) -> None:
    from rowspan.bench.results.repetitions import workload_of
    from rowspan.cli.console_output import print_table

    rows = store.rows()
    if not rows:
        typer.echo("There are no results yet: rowspan bench")
        return
    header = ("RUN", "ROW", "MEASURED", "MODEL", "ENGINE", "SPLIT", "DEVICES", "TEST", "T/S, MEDIAN")
    print_table(
        "Results",
        header,
        (
            (
                f"r{row['run_id']}",
                row["id"],
                row["test_time"],
                row["model_type"],
                row["engine"],
                row["split_mode"],
                row["devices"],
                workload_of(row).name,
                f"{row['median_ts']:.1f}",
            )
            for row in rows
        ),
    )


def _print(comparisons: list[tuple[dict[str, Any], dict[str, Any], Comparison]], alone: list[dict[str, Any]]) -> None:
    from rowspan.bench.results.repetitions import workload_of
    from rowspan.cli.console_output import print_table

    def cells(one: dict[str, Any], other: dict[str, Any], comparison: Comparison) -> tuple[str, ...]:
        found = comparison.change
        rates = (f"{row['median_ts']:.1f}" for row in (one, other))
        change = f"{found.ratio - 1:+.1%}" if found else ""
        interval = f"{found.low - 1:+.1%} to {found.high - 1:+.1%} ({found.confidence:.0%})" if found else ""
        name = f"{one['engine']} {one['split_mode']} {workload_of(one).name}"
        return name, f"{one['id']}, {other['id']}", *rates, change, interval, comparison.verdict.value.split(",")[0]

    header = ("TEST OF A", "ROWS", "A, T/S", "B, T/S", "CHANGE", "CONFIDENCE INTERVAL", "COMPARABLE")
    print_table("Tokens per second, medians", header, (cells(*each) for each in comparisons))
    shown = set()
    for one, other, comparison in comparisons:
        lines = [comparison.reason]
        for group, names in comparison.differing.items():
            lines += [f"  {group.value}: {name}: {_short(one[name])} → {_short(other[name])}" for name in names]
        text = "\n".join(lines)
        if text not in shown:
            typer.echo(f"{one['id']}, {other['id']}: {text}")
            shown.add(text)
    for row in alone:
        typer.echo(f"{row['id']}: {row['engine']} {row['split_mode']} {workload_of(row).name} has no counterpart in B.")


def _short(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(
    comparisons: list[tuple[dict[str, Any], dict[str, Any], Comparison]], alone: list[dict[str, Any]]
) -> None:
    import json
    from dataclasses import asdict

    answers = [
        {
            "before": one["id"],
            "after": other["id"],
            "verdict": comparison.verdict.name.lower(),
            "reason": comparison.reason,
            "differing": {group.name.lower(): list(names) for group, names in comparison.differing.items()},
            "change": asdict(comparison.change) if comparison.change else None,
        }
        for one, other, comparison in comparisons
    ]
    typer.echo(json.dumps({"comparisons": answers, "without_counterpart": [row["id"] for row in alone]}, indent=2))
