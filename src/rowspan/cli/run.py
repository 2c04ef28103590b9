"""`rowspan run`: gives one answer, or chats in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rowspan.cli.engine_options import EngineOptions, with_engine_options

if TYPE_CHECKING:
    from rowspan.engine.engine import Engine
    from rowspan.scheduler.request import SamplingParams

Message = dict[str, str]

HELP = """\
/clear  begin a new conversation
/exit   leave (or Ctrl-D, or Ctrl-C while nothing is being written)
/help   this list
Ctrl-C  stop an answer"""


@with_engine_options
def run(
    engine: EngineOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model, as for `rowspan pull`. [default: the small model that `rowspan models` lists first]"
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(help="Answer this and exit. Without it: what is piped in, or else a chat.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", min=1, help="Of an answer. [default: what the context holds]"),
    ] = None,
    temperature: Annotated[float, typer.Option("--temp", min=0, max=100, help="0: always the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Choose among so many tokens; 0: off.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", min=0, max=1, help="Choose within this probability.")] = 0.95,
    min_p: Annotated[
        float, typer.Option("--min-p", min=0, max=1, help="Least probability, as a share of the likeliest's.")
    ] = 0.0,
    repeat_penalty: Annotated[float, typer.Option("--repeat-penalty", min=0.01, max=100, help="1: off.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same answer.")] = None,
) -> None:
    """Chat with a model in the terminal, or have one prompt answered: rowspan run MODEL ["PROMPT"]."""
    from rowspan import hub
    from rowspan.backends.native import NativeBackend
    from rowspan.cli.open_backend import started
    from rowspan.cli.progress import terminal_progress
    from rowspan.engine.blueprint import make_blueprint
    from rowspan.errors import UsageError
    from rowspan.hub.download_progress import Silent
    from rowspan.scheduler.request import SamplingParams

    engine_config = engine.check()
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise UsageError("The prompt is empty.", fix='Write it behind the model: rowspan run MODEL "PROMPT".')
    files = hub.resolve(model or hub.DEFAULT_MODEL, progress=terminal_progress())
    blueprint = make_blueprint(engine_config(files.path))
    params = SamplingParams(
        max_tokens=max_tokens or blueprint.cache.context_size,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
    )
    beginning: list[Message] = [{"role": "system", "content": system}] if system else []
    backend = NativeBackend(blueprint)
    with started(backend, files.name, terminal_progress() if sys.stderr.isatty() else Silent()):
        running = backend.engine
        if prompt is None:
            print(f"{files.name}. /help lists what else there is to type.", file=sys.stderr)
            _chat(running, params, beginning)
        else:
            try:
                _answer(running, params, [*beginning, {"role": "user", "content": prompt}])
            except KeyboardInterrupt:
                raise typer.Exit(130) from None


def _chat(engine: Engine, params: SamplingParams, beginning: list[Message]) -> None:
    import contextlib

    from rowspan.cli.console_output import print_error
    from rowspan.errors import UsageError

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing and history
    messages = list(beginning)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        match line:
            case "":
                continue
            case "/exit":
                return
            case "/clear":
                messages = list(beginning)
                continue
            case "/help":
                print(HELP)
                continue
        messages.append({"role": "user", "content": line})
        said: list[str] = []
        try:
            _answer(engine, params, messages, said)
        except KeyboardInterrupt:
            print()
        except UsageError as error:  # most often: the conversation has outgrown the context
            messages.pop()
            print_error(error)
            continue
        messages.append({"role": "assistant", "content": "".join(said)})


def _answer(engine: Engine, params: SamplingParams, messages: list[Message], said: list[str] | None = None) -> None:
    """Write the answer to stdout as it comes; `said` collects what was written, even if it is interrupted."""
    for piece in engine.generate(engine.encode_chat(messages), params):
        if said is not None:
            said.append(piece.text)
        print(piece.text, end="", flush=True)
    print()
