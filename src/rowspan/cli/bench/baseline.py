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
from rowspan.errors import ModelNotFoundError
from rowspan.rig.probe.rig import probe
from rowspan.rig.root import Root

BUSY_SHARE = 0.25  # share of the cores that was busy in the last minute


def save_baseline(model: str | None) -> None:
    """Measure this machine and write the baseline. model: its name; None: the default one.

    Raises:
        RowspanError: the model is missing or cannot be run, or the file cannot be written.
    """
    path = Paths.from_env().baseline
    baseline = _measure(model)
    save(baseline, path)
    for name in unsteady(baseline.rates):
        typer.echo(f"- {name} varied too much to compare with: stop other programs, and save again")
    typer.echo(f"Saved to {path}. After an upgrade: rowspan doctor --baseline check")


def check_baseline(model: str | None) -> None:
    """Measure again and compare; exit with 1 if this machine has become slower, or has lost a card.

    Raises:
        RowspanError: the same as `save_baseline`, or there is no baseline to compare with.
    """
    before = load(Paths.from_env().baseline)  # first: its absence should show before minutes are spent
    after = _measure(model)
    comparisons = compare(before, after)
    for change in changed(before, after) or ["nothing that is looked at: driver, kernel, firmware, engine"]:
        typer.echo(f"- changed since {before.saved}: {change}")
    gone = sorted(before.rates.keys() - after.rates.keys())
    for name in gone:
        typer.echo(f"- {name}: measured then, and not now")
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
    raise typer.Exit(int(bool(gone) or any(one.slower for one in comparisons)))


def _measure(name: str | None) -> Baseline:
    busy, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if busy > BUSY_SHARE * cores:
        typer.echo(
            f"- in the last minute this machine was busy (load {busy:.1f}, {cores} cores): rates may be lower for it"
        )
    name = name or hub.DEFAULT_MODEL
    try:
        files = hub.resolve(name, offline=True)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{name}, which this measures with, has not been fetched yet.",
            fix=f"Fetch it: rowspan pull {name}. Or name a model that is here, with -m.",
        ) from error
    version = importlib.metadata.version("rowspan")
    rig = probe(Root())
    cards = sum(card.vendor in ("AMD", "NVIDIA") for card in rig.compute_cards)
    model, rates = measure(files.path, files.sha256, cards, lambda text: print(text, file=sys.stderr, flush=True))
    facts = circumstances(rig, version)
    return Baseline(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), model, facts, rates)
