"""`rowspan plan MODEL --gpus …`: compares rigs side by side, none of which need be here."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rowspan.cli.engine_options import EngineOptions
from rowspan.cli.terminal import page_width

if TYPE_CHECKING:
    from rowspan.plan.rigs.advice import Advice
    from rowspan.plan.rigs.outline import Outline

DEFAULT_CONTEXT = 8192
# Options that say nothing about cards that need not be here, with the reason.
REFUSED = {
    "devices": ("--devices", "--gpus names the cards."),
    "main_gpu": ("--main-gpu", "Of a rig, the largest card is the one that works alone."),
    "stages": ("--stages", "Row split is forecast over all cards of a rig."),
    "dtype": ("--dtype", "The engine's own choice is forecast."),
    "threads": ("--threads", "Processors are not forecast."),
    "pooling": ("--pooling", "Embeddings are not forecast."),
    "spec": ("--spec", "How many guesses are right depends on the text."),
    "spec_max": ("--spec-max", "How many guesses are right depends on the text."),
    "no_prefix_reuse": ("--no-prefix-reuse", "Prompts are forecast as new ones."),
}


def advise_rigs(
    engine: EngineOptions,
    outline: Outline,
    gpus: str,
    *,
    prices: list[str],
    quantizations: str | None,
    prompt: int,
    link: str | None,
    serve_with: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Print the table and the recommendation, once for each quantization that is asked for."""
    from rowspan.plan.device import parse_ratios
    from rowspan.plan.fit import check_context
    from rowspan.plan.rigs.advice import AdviceRequest, advise
    from rowspan.plan.rigs.capacity import Load
    from rowspan.plan.shares import check_ratios
    from rowspan.plan.split_mode import SplitMode
    from rowspan.rig.catalog.rigs import parse_prices, parse_rigs

    _refuse(engine)
    engine.check(native=False)
    check_context(engine.context_size, outline.spec)
    rigs = parse_rigs(gpus, parse_prices(prices))
    request = AdviceRequest(
        Load(
            context=engine.context_size or min(DEFAULT_CONTEXT, outline.spec.context_length or DEFAULT_CONTEXT),
            parallel=engine.parallel or 16,
            cache_types=_cache_types(engine),
            step_tokens=engine.token_budget or 512,
            gpu_layers=engine.gpu_layers,
            utilization=engine.gpu_memory_utilization,
        ),
        prompt=prompt,
        engine=_engine(serve_with),
        peer_copies=_link(link),
        ratios=parse_ratios(engine.tensor_split) if engine.tensor_split else None,
    )
    if request.ratios is not None:
        for rig in rigs:
            check_ratios(request.ratios, len(rig.cards))
    modes = [SplitMode(engine.split_mode)] if engine.split_mode else []
    outlines = [outline.requantized(name) for name in quantizations.split(",")] if quantizations else [outline]
    pieces = [advise(each, rigs, request, modes) for each in outlines]
    if as_json:
        from rowspan.plan.rigs.advice_table import to_dict

        answers = [to_dict(piece) for piece in pieces]
        typer.echo(json.dumps(answers[0] if len(answers) == 1 else answers, indent=2))
    else:
        for piece in pieces:
            show(piece)
    if plot is not None:
        from rowspan.cli.plan.plot_advice import plot_advice

        plot_advice(pieces, plot)


def _refuse(engine: EngineOptions) -> None:
    """Raise UsageError for an option that a plan of cards cannot honour."""
    from rowspan.errors import UsageError

    for field, (option, why) in REFUSED.items():
        if getattr(engine, field) not in (None, False):
            raise UsageError(f"{option} cannot be had with --gpus.", why=why, fix="Leave it out.")


def show(advice: Advice, width: int | None = None) -> None:
    """Print the advice, with as many rigs side by side as the terminal has room for."""
    from rowspan.plan.rigs.advice_table import lines, notes

    terminal = width or page_width()
    outline, load = advice.outline, advice.request.load
    title = (
        f"{outline.label}: {outline.parameters / 1e9:.2f} B parameters, file {outline.file_bytes / 1e9:.1f} GB "
        f"({outline.file_bytes / 2**30:.1f} GiB), read per token {outline.token_bytes / 1e9:.1f} GB; "
        f"{load.parallel} request{'s' if load.parallel > 1 else ''} of {load.context} tokens"
    )
    typer.echo(textwrap.fill(title, terminal))
    table = lines(advice)
    names = [rig.rig.name for rig in advice.rigs]
    widths = [max(len(name), *(len(line[index + 1]) for line in table)) for index, name in enumerate(names)]
    label_width = max(len(line[0]) for line in table)
    for columns in _pages(widths, terminal - label_width):
        typer.echo()
        _print_line("", [names[index] for index in columns], label_width, [widths[i] for i in columns], bold=True)
        for label, *cells in table:
            _print_line(label, [cells[index] for index in columns], label_width, [widths[i] for i in columns])
    typer.echo()
    _print_paragraphs(advice.words, notes(advice), min(terminal, 120))


def _pages(widths: list[int], room: int) -> list[list[int]]:
    """Groups of columns that fit beside each other, two spaces apart."""
    pages: list[list[int]] = []
    used = room + 1
    for index, width in enumerate(widths):
        if used + width + 2 > room:
            pages.append([])
            used = 0
        pages[-1].append(index)
        used += width + 2
    return pages


def _print_line(label: str, cells: list[str], label_width: int, widths: list[int], *, bold: bool = False) -> None:
    text = label.ljust(label_width) + "".join(
        "  " + cell.ljust(width) for cell, width in zip(cells, widths, strict=True)
    )
    typer.echo(typer.style(text.rstrip(), bold=True) if bold else text.rstrip())


def _print_paragraphs(words: list[str], remarks: list[str], width: int) -> None:
    for index, sentence in enumerate(words):
        text = textwrap.fill(sentence, width)
        typer.echo(text if index else typer.style(text, bold=True))
    typer.echo()
    for remark in remarks:
        typer.echo(textwrap.fill(remark, width, initial_indent="- ", subsequent_indent="  "))


def _cache_types(engine: EngineOptions) -> tuple[str, str]:
    from rowspan.errors import UsageError
    from rowspan.quant.cache_types import CacheKernels, cache_options, cache_type_for

    names = (engine.cache_type_k or "f16", engine.cache_type_v or "f16")
    if "i16" in names:
        raise UsageError("No card has a cache of i16.", why="Rowspan's kernels for CPUs have it.", fix="Use f16.")
    keys, values = (cache_type_for(name, CacheKernels.LLAMACPP) for name in names)
    if keys is None or values is None:
        known = ", ".join(cache_options(CacheKernels.LLAMACPP))
        raise UsageError(f"No cache is of {' and '.join(dict.fromkeys(names))}.", fix=f"Choose one of {known}.")
    return keys.dtype, values.dtype


def _engine(name: str) -> str:
    from rowspan.errors import UsageError

    engines = {"llama.cpp": "llama.cpp", "vulkan": "llama.cpp Vulkan", "ollama": "Ollama", "vllm": "vLLM"}
    if name.lower() not in engines:
        raise UsageError(f"--engine {name} is not known.", fix=f"Choose one of {', '.join(engines)}.")
    return engines[name.lower()]


def _link(name: str | None) -> bool | None:
    from rowspan.errors import UsageError

    if name not in (None, "p2p", "host"):
        raise UsageError(f"--link {name} is not known.", fix="Choose p2p (cards copy to each other) or host.")
    return None if name is None else name == "p2p"
