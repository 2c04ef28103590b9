"""`rowspan plan`: who would hold what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rowspan.engine.open import Blueprint
    from rowspan.plan.explain import Explanation


def plan(
    model: Annotated[str, typer.Argument(help="Model, as for `rowspan pull`.")],
    devices: Annotated[str, typer.Option("--devices", "-dev", help="Comma list: cpu:0,cpu:1.")] = "cpu:0",
    split_mode: Annotated[str, typer.Option("--split-mode", "-sm", help="none, layer or row.")] = "layer",
    tensor_split: Annotated[
        str | None, typer.Option("--tensor-split", "-ts", help="Share of each device: 3,1.")
    ] = None,
    main_gpu: Annotated[int, typer.Option("--main-gpu", "-mg", help="Place of the device that `none` uses.")] = 0,
    context_size: Annotated[int | None, typer.Option("--ctx-size", "-c", help="Tokens of one request.")] = None,
    parallel: Annotated[int, typer.Option("--parallel", "-np", min=1, help="Requests that run at once.")] = 16,
    cache_type_k: Annotated[str | None, typer.Option("--cache-type-k", "-ctk", help="f32, bf16 or f16.")] = None,
    cache_type_v: Annotated[str | None, typer.Option("--cache-type-v", "-ctv", help="Likewise.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how a model is split: what each device holds, and how many bytes. Reads the file's header only."""
    from rowspan import hub
    from rowspan.bench.ranges import parse_names
    from rowspan.cli.progress import terminal_progress
    from rowspan.config import DTYPES, EngineConfig
    from rowspan.engine.open import draw_up
    from rowspan.plan.device import parse_devices, parse_ratios
    from rowspan.plan.split import SplitMode

    (mode,) = parse_names("--split-mode", [split_mode], SplitMode)
    (number_type,) = parse_names("--dtype", [dtype], DTYPES)
    config = EngineConfig(
        model_path=hub.resolve(model, progress=terminal_progress()).path,
        devices=parse_devices(devices),
        split_mode=SplitMode(mode),
        tensor_split=parse_ratios(tensor_split) if tensor_split else None,
        main_gpu=main_gpu,
        context_size=context_size,
        parallel=parallel,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        dtype=number_type,
    )
    blueprint = draw_up(config)
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
