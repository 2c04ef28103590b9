"""`rowspan doctor --baseline`: measures this machine, saves the result, or compares it with the saved one."""

from __future__ import annotations

import importlib.metadata
import sys
from datetime import UTC, datetime

import psutil
import typer

from rowspan import hub
from rowspan.bench.run.guard import Baseline, changed, circumstances, compare, load, measure, save, unsteady
from rowspan.cli.console_output import print_table
from rowspan.config import Paths
from rowspan.rig.probe.rig import probe
from rowspan.rig.root import Root

BUSY_SHARE = 0.25  # share of the cores that was busy in the last minute


def save_baseline() -> None:
    """Measure this machine and write the baseline.

    Raises:
        RowspanError: the default model is missing or cannot be run, or the file cannot be written.
    """
    path = Paths.from_env().baseline
    baseline = _measure()
    save(baseline, path)
    for name in unsteady(baseline.rates):
        typer.echo(f"- {name} varied too much to compare with: stop other programs, and save again")
    typer.echo(f"Saved to {path}. After an upgrade: rowspan doctor --baseline check")


def check_baseline() -> None:
    """Measure again and compare; exit with 1 if this machine has become slower.

    Raises:
        RowspanError: the same as `save_baseline`, or there is no baseline to compare with.
    """
    before = load(Paths.from_env().baseline)  # first: its absence should show before minutes are spent
    after = _measure()
    comparisons = compare(before, after)
    for change in changed(before, after) or ["nothing that is looked at: driver, kernel, firmware, engine"]:
        typer.echo(f"- changed since {before.saved}: {change}")
    typer.echo()
    rows = [
        (
            one.workload,
            f"{one.before:.1f}",
            f"{one.after:.1f}",
            f"{one.change:+.1%}",
            f"±{one.threshold:.1%}",
            one.verdict,
        )
        for one in comparisons
    ]
    print_table("Tokens per second, medians", ("TEST", "BASELINE", "NOW", "CHANGE", "COUNTS FROM", "VERDICT"), rows)
    raise typer.Exit(int(any(one.slower for one in comparisons)))


def _measure() -> Baseline:
    busy, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if busy > BUSY_SHARE * cores:
        typer.echo(
            f"- in the last minute this machine was busy (load {busy:.1f}, {cores} cores): rates may be lower for it"
        )
    files = hub.resolve(hub.DEFAULT_MODEL, offline=True)
    version = importlib.metadata.version("rowspan")
    facts = circumstances(probe(Root()), version)
    model, rates = measure(files.path, files.sha256, lambda text: print(text, file=sys.stderr, flush=True))
    return Baseline(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), model, facts, rates)
