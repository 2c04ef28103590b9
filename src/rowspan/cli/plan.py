"""`rowspan plan`: who would hold what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from rowspan.cli.engine_options import EngineOptions, with_engine_options

if TYPE_CHECKING:
    from rowspan.engine.open import Blueprint
    from rowspan.plan.explain import Explanation


@with_engine_options
def plan(
    engine: EngineOptions,
    model: Annotated[str, typer.Argument(help="Model, as for `rowspan pull`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how a model is split: what each device holds, and how many bytes. Reads the file's header only."""
    from rowspan import hub
    from rowspan.cli.progress import terminal_progress
    from rowspan.engine.open import draw_up

    configure = engine.check()
    blueprint = draw_up(configure(hub.resolve(model, progress=terminal_progress()).path))
    if as_json:
        typer.echo(json.dumps(describe(blueprint).to_dict(), indent=2))
    else:
        show_plan(blueprint)


def describe(blueprint: Blueprint) -> Explanation:
    """The table and notes of what is about to run."""
    from rowspan.plan.explain import explain

    return explain(blueprint.plan, blueprint.sizes, blueprint.cache, blueprint.config.block_size)


def show_plan(blueprint: Blueprint) -> None:
    """Print the plan's table and notes to stdout; for other commands too, such as `serve`."""
    from rowspan.cli.console_output import print_table
    from rowspan.plan.explain import HEADER

    explanation = describe(blueprint)
    print_table(explanation.title, HEADER, explanation.rows())
    for note in explanation.notes:
        typer.echo(f"- {note}")
