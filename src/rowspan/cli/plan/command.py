"""`rowspan plan`: shows how a model would be split, and over which cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowspan.cli.engine_options import EngineOptions, with_engine_options

if TYPE_CHECKING:
    from rowspan.engine.blueprint import Blueprint


@with_engine_options
def plan(
    engine: EngineOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model, as for `rowspan pull`. With --gpus also a known shape and quantization (llama-3-70b:q8_0), a "
            "config.json, or an address, of which the header alone is fetched."
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help='Rigs to compare, none of which need be here: 2xW7900DS,4xRTX4090,"2xRTX A6000".'),
    ] = None,
    quant: Annotated[
        str | None, typer.Option("--quant", help="What if it were quantized so: q8_0,q4_k_m. With --gpus.")
    ] = None,
    prompt: Annotated[
        int, typer.Option("--n-prompt", "-p", min=1, help="Tokens of the prompt to forecast. With --gpus.")
    ] = 512,
    price: Annotated[
        list[str] | None, typer.Option("--price", help='USD of a card: "RTX 3090=700". May be given again.')
    ] = None,
    link: Annotated[
        str | None,
        typer.Option("--link", help="p2p: cards copy to each other; host: they do not. [default: as such cards do]"),
    ] = None,
    serve_with: Annotated[
        str, typer.Option("--engine", help="Whose speed to forecast: llama.cpp, vulkan, ollama, vllm.")
    ] = "llama.cpp",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the forecast into a file: .png, .svg or .pdf. With --gpus.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Forecast from this processor's measured ceilings, and measure. Without --gpus."
        ),
    ] = False,
    names: Annotated[bool, typer.Option("--list", help="List the cards and shapes that are known.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how a model is split: what each device holds, and how many bytes. Reads the file's header only.

    With --gpus: whether it fits on cards, how to split it, how fast it would be, what that costs.
    """
    from rowspan.errors import UsageError

    if names:
        from rowspan.cli.plan.list_names import show_names

        show_names()
        return
    if model is None:
        raise UsageError("No model is named.", fix="Write rowspan plan MODEL, or rowspan plan --list for known ones.")
    if gpus is not None:
        if measure:
            raise UsageError("--measure is of this processor, --gpus of cards.", fix="Ask for one of them.")
        from rowspan.cli.plan.advise import advise_rigs
        from rowspan.cli.plan.outline_of import outline_of

        advise_rigs(
            engine,
            outline_of(model),
            gpus,
            prices=price or [],
            quantizations=quant,
            prompt=prompt,
            link=link,
            serve_with=serve_with,
            plot=plot,
            as_json=as_json,
        )
        return
    given = {"--quant": quant, "--price": price, "--link": link, "--plot": plot}
    alone = [option for option, value in given.items() if value]
    if alone:
        raise UsageError(f"{alone[0]} needs --gpus.", fix="Name the rigs to compare: --gpus 2xW7900DS,4xRTX4090.")
    _plan_here(engine, model, measure=measure, as_json=as_json)


def _plan_here(engine: EngineOptions, model: str, *, measure: bool, as_json: bool) -> None:
    """Plan the split over this machine's devices, and print it."""
    from rowspan import hub
    from rowspan.cli.progress import terminal_progress
    from rowspan.engine.blueprint import make_blueprint
    from rowspan.engine.describe import describe
    from rowspan.errors import ModelNotFoundError, UsageError
    from rowspan.plan.rigs.model_shapes import in_catalog

    configure = engine.check()
    try:
        path = hub.resolve(model, progress=terminal_progress()).path
    except ModelNotFoundError:
        if in_catalog(model) is None:
            raise
        raise UsageError(
            f"{model} is only a shape to plan cards with.",
            fix="Name cards with --gpus, or a model of `rowspan models`.",
        ) from None
    blueprint = make_blueprint(configure(path))
    if not as_json:
        show_plan(blueprint)
    measured = {}
    if measure:
        from rowspan.cli.plan.measured import measure_plan, show_measured

        measured["measured"] = measure_plan(blueprint)
        if not as_json:
            typer.echo()
            show_measured(measured["measured"])
    if as_json:
        typer.echo(json.dumps(describe(blueprint).to_dict() | measured, indent=2))


def show_plan(blueprint: Blueprint) -> None:
    """Print the plan's table and notes to stdout. Other commands use this too, such as `serve`."""
    from functools import partial

    from rowspan.cli.terminal import page_width
    from rowspan.engine.describe import describe
    from rowspan.plan.explain_table import to_text

    typer.echo(to_text(describe(blueprint), page_width(), partial(typer.style, bold=True)))
