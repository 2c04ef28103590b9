"""`rowspan models`: lists the models that are on this machine, and those that can be fetched by name."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from rowspan.hub import InstalledModel
    from rowspan.hub.catalog import Entry


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List the models on this machine and those that `rowspan pull` knows by name."""
    from rowspan import hub
    from rowspan.config import HubConfig

    config = HubConfig.from_env()
    installed, catalog = hub.installed(config), hub.catalog_state(config)
    if as_json:
        _print_json(installed, catalog)
    else:
        _print_tables(installed, catalog)


def _print_json(installed: list[InstalledModel], catalog: list[tuple[Entry, Path | None]]) -> None:
    entries = [
        {
            "name": entry.name,
            "aliases": entry.aliases,
            "source": str(entry.source),
            "license": entry.license,
            "gigabytes": entry.size,
            "installed": path is not None,
        }
        for entry, path in catalog
    ]
    answer = {"installed": [asdict(model) for model in installed], "catalog": entries}
    typer.echo(json.dumps(answer, indent=2, default=str))


def _print_tables(installed: list[InstalledModel], catalog: list[tuple[Entry, Path | None]]) -> None:
    from rowspan.cli.console_output import print_table, size_text

    rows = [
        (model.name, size_text(model.size), f"{datetime.datetime.fromtimestamp(model.modified):%Y-%m-%d}", model.path)
        for model in installed
    ]
    print_table("On this machine", ("NAME", "SIZE", "FETCHED", "FILE"), rows)
    known = [
        (
            entry.name,
            "yes" if path else "",
            f"{entry.size:.3g} GB" if entry.size else "",
            entry.license,
            entry.source.kind,
            ", ".join(entry.aliases),
        )
        for entry, path in catalog
    ]
    print_table("By name, with `rowspan pull NAME`", ("NAME", "HERE", "SIZE", "LICENSE", "FROM", "ALSO"), known)
