"""The options that say how to run a model, under llama.cpp's names, for every command that runs one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from rowspan.config import EngineConfig

T = TypeVar("T")

# Options whose fields in `EngineConfig` are called otherwise.
RENAMED = {"no_prefix_reuse": "prefix_reuse", "spec": "guesses", "spec_max": "guesses"}


@dataclass(frozen=True)
class EngineOptions:
    """The options as the user typed them; None for those not typed. Tests check that the defaults named here are
    `EngineConfig`'s.
    """

    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            "-dev",
            help="Comma list: cuda:0,cuda:1. llama.cpp takes all cards if none is named. [default: cpu:0]",
        ),
    ] = None
    split_mode: Annotated[
        str | None,
        typer.Option(
            "--split-mode", "-sm", help="none, layer or row. [default: layer; with a single device there is no split]"
        ),
    ] = None
    tensor_split: Annotated[
        str | None, typer.Option("--tensor-split", "-ts", help="Share of each device: 3,1. [default: equal]")
    ] = None
    main_gpu: Annotated[
        int | None,
        typer.Option("--main-gpu", "-mg", min=0, help="Place in --devices of the one that split mode none uses."),
    ] = None
    stages: Annotated[
        int | None,
        typer.Option(
            "--stages",
            min=1,
            help="Of split mode row: stages one after the other, each with equally many devices. [default: 1]",
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "--n-gpu-layers",
            "-ngl",
            min=1,
            help="So many of the first layers on cards, the rest on the CPUs that --devices names after them. "
            "[default: by --tensor-split]",
        ),
    ] = None
    context_size: Annotated[
        int | None,
        typer.Option(
            "--ctx-size", "--ctx", "-c", min=1, help="Tokens of one request, prompt and answer. [default: the model's]"
        ),
    ] = None
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", "-np", min=1, help="Requests that run at once; more wait. [default: 16]"),
    ] = None
    token_budget: Annotated[
        int | None, typer.Option("--ubatch-size", "-ub", min=1, help="Tokens computed in one step. [default: 512]")
    ] = None
    cache_type_k: Annotated[
        str | None,
        typer.Option("--cache-type-k", "-ctk", help="f32, bf16, f16, q8_0, i16. [default: --dtype; i16 for int8]"),
    ] = None
    cache_type_v: Annotated[str | None, typer.Option("--cache-type-v", "-ctv", help="Likewise.")] = None
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory-utilization",
            min=0.05,
            max=1.0,
            help="Share of a card's memory that may be used, by all programs together. [default: 0.9]",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="What is computed with: int8, float32, bfloat16, float16. [default: int8 on CPUs, bfloat16 on cards]",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Of all CPU devices together. [default: the usable cores]"),
    ] = None
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling", help="How embeddings are made: mean, cls, last or rank. [default: as the model's file says]"
        ),
    ] = None
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec",
            help="ngram: guess what follows from earlier text and check several tokens a step, where that pays; the "
            "answers stay the same. [default: off]",
        ),
    ] = None
    spec_max: Annotated[
        int | None, typer.Option("--spec-max", min=1, max=64, help="Tokens guessed at a time at most. [default: 16]")
    ] = None
    no_prefix_reuse: Annotated[
        bool, typer.Option("--no-prefix-reuse", help="Compute every prompt from its beginning.")
    ] = False

    def given(self) -> frozenset[str]:
        """Names of `EngineConfig`'s fields that the user typed."""
        typed = {field.name for field in fields(self) if getattr(self, field.name) not in (None, False)}
        return frozenset(RENAMED.get(name, name) for name in typed)

    def check(self, *, native: bool = True) -> Callable[[Path], EngineConfig]:
        """Read the options before anything is fetched or opened; the function returned makes the configuration for a
        model file.

        Args:
            native: check for the native engine. Others have further KV cache types, and refuse options themselves.

        Raises:
            UsageError: an option's value is not understood.
        """
        from rowspan.config import DTYPES, MOST_GUESSES, POOLINGS, EngineConfig
        from rowspan.plan.device import parse_devices, parse_ratios
        from rowspan.plan.split_mode import SplitMode
        from rowspan.quant.cache_types import CacheKernels, cache_options

        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        given["prefix_reuse"] = not given.pop("no_prefix_reuse")
        _check_choice("--spec", self.spec, ("ngram", "off"))
        most = given.pop("spec_max", MOST_GUESSES)
        if given.pop("spec", "off") == "ngram":
            given["guesses"] = most
        if self.devices is not None:
            given["devices"] = parse_devices(self.devices)
        if self.tensor_split is not None:
            given["tensor_split"] = parse_ratios(self.tensor_split)
        if self.split_mode is not None:
            _check_choice("--split-mode", self.split_mode, list(SplitMode))
            given["split_mode"] = SplitMode(self.split_mode)
        elif len(given.get("devices", ())) < 2:
            given["split_mode"] = SplitMode.NONE
        for option, value in (("--cache-type-k", self.cache_type_k), ("--cache-type-v", self.cache_type_v)):
            if native:
                _check_choice(option, value, cache_options(CacheKernels.NATIVE, CacheKernels.TENSORS))
        _check_choice("--dtype", self.dtype, DTYPES)
        _check_choice("--pooling", self.pooling, POOLINGS)
        return lambda path: EngineConfig(path, **given).with_env()


def _check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    from rowspan.errors import UsageError

    if value is not None and value not in choices:
        raise UsageError(f"{option} {value} is not known.", fix=f"Choose one of {', '.join(choices)}.")


def with_engine_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command all engine options, which it receives as one argument, `engine`."""
    own = inspect.signature(command).parameters.values()
    hints = get_type_hints(command, include_extras=True)
    option_hints = get_type_hints(EngineOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=option_hints[field.name]
        )
        for field in fields(EngineOptions)
    ]

    @wraps(command)
    def with_options(**arguments: object) -> T:
        engine = EngineOptions(**{field.name: arguments.pop(field.name) for field in fields(EngineOptions)})  # type: ignore[arg-type]
        return command(**arguments, engine=engine)

    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in own
        if parameter.name != "engine"
    ]
    with_options.__signature__ = inspect.Signature(kept + shared, return_annotation=None)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in kept + shared}
    return with_options
