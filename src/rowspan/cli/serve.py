"""`rowspan serve`: serves the API and the chat page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowspan.cli.engine_options import EngineOptions, with_engine_options

if TYPE_CHECKING:
    import socket

    from rowspan.backends.choose import Choice
    from rowspan.backends.protocol import Backend, BackendName, Setup
    from rowspan.config import ServerConfig
    from rowspan.server.models.entry import ModelEntry

AUTO = "auto"


@with_engine_options
def serve(
    engine: EngineOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model, as for `rowspan pull`; for vLLM a Hugging Face folder, or hf:ORG/NAME. Several are loaded as "
            "they are asked for. [default: the small model that `rowspan models` lists first]",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option("--backend", help="What computes: native, llamacpp, vllm, or auto for the first that can."),
    ] = "native",
    backend_args: Annotated[
        str, typer.Option("--backend-args", help='More options for llama-server or vLLM, as it calls them: "-fa on".')
    ] = "",
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            help="Address to listen on; 0.0.0.0 for all networks; a path ending in .sock. [default: 127.0.0.1]",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="0 takes any free one. [default: 8000]")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", help="Ask clients for this key; may be given again. [default: ROWSPAN_API_KEY]"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="Further keys, one a line: NAME KEY, or NAME sha256:HASH; read anew."),
    ] = None,
    ssl_cert_file: Annotated[
        Path | None, typer.Option("--ssl-cert-file", "--ssl-certfile", help="Certificate, for HTTPS.")
    ] = None,
    ssl_key_file: Annotated[
        Path | None, typer.Option("--ssl-key-file", "--ssl-keyfile", help="The certificate's private key.")
    ] = None,
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origins",
            help="Let web pages of this origin (https://example.org) use the server; may be given again; * for all.",
        ),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", "--alias", help="What clients call the model. [default: its name]")
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option("--models-dir", help="Serve every GGUF file of this folder, loaded when asked for.")
    ] = None,
    models_file: Annotated[
        Path | None, typer.Option("--models", help="A TOML file of models with their settings: see docs/models.md.")
    ] = None,
    max_loaded_models: Annotated[
        int, typer.Option("--max-loaded-models", min=1, help="Of several models, so many are loaded at once.")
    ] = 4,
    model_ttl: Annotated[
        float | None,
        typer.Option(
            "--model-ttl", min=0, help="Of several, unload what was unused for so many seconds. [default: never]"
        ),
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option("--max-waiting", min=0, help="Requests beyond those that run; more get 429. [default: 256]"),
    ] = None,
    drain_seconds: Annotated[
        float | None,
        typer.Option("--drain-seconds", min=0, help="Time to finish answers after SIGTERM. [default: 30]"),
    ] = None,
    request_seconds: Annotated[
        float | None,
        typer.Option(
            "--request-seconds", min=0.1, help="How long a client may pause while it sends a request. [default: 60]"
        ),
    ] = None,
    sleep_idle_seconds: Annotated[
        float | None,
        typer.Option(
            "--sleep-idle-seconds",
            min=0.1,
            help="Give the devices back after so long without a request. [default: never]",
        ),
    ] = None,
    sleep_level: Annotated[
        int | None,
        typer.Option(
            "--sleep-level",
            min=1,
            max=2,
            help="1: weights go from cards to RAM, and soon back; 2: the workers end, and hold nothing. [default: 2]",
        ),
    ] = None,
    tool_call_parser: Annotated[
        str | None,
        typer.Option("--tool-call-parser", help="Format of the model's tool calls. [default: by its chat template]"),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        typer.Option("--reasoning-parser", help="Format of its reasoning, or none. [default: by its chat template]"),
    ] = None,
    open_webui: Annotated[
        bool, typer.Option("--open-webui", help="Start Open WebUI, if installed, beside it.")
    ] = False,
    open_webui_port: Annotated[
        int, typer.Option("--open-webui-port", min=1, max=65535, help="Where Open WebUI answers.")
    ] = 8080,
    nnodes: Annotated[
        int | None, typer.Option("--nnodes", min=1, help="Hosts that run the model together. [default: 1]")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", min=0, help="Which of them this is. 0 serves; the others work for it.")
    ] = None,
    rdzv: Annotated[
        str | None, typer.Option("--rdzv", help="Where host 0 listens for the others, the same on all: 10.0.0.1:29400.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every request.")] = False,
) -> None:
    """Serve a model: OpenAI's API under /v1, and a chat page at /."""
    import logging
    import signal
    from contextlib import ExitStack
    from dataclasses import replace

    from rowspan.backends.choose import choose
    from rowspan.backends.protocol import BackendName
    from rowspan.cli.open_backend import started
    from rowspan.cli.progress import terminal_progress
    from rowspan.cli.several_hosts import gathered, serve_head
    from rowspan.cli.several_models import listed, options_of, serve_several
    from rowspan.config import ServerConfig
    from rowspan.hosts.rendezvous import hosts_config
    from rowspan.server.listen import bind
    from rowspan.server.open_webui import find_open_webui

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    name = _backend_name(backend)
    hosts = hosts_config(nnodes, node_rank, rdzv)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_keys": frozenset(api_key) if api_key else None,
        "api_key_file": api_key_file,
        "ssl_files": _ssl_files(ssl_cert_file, ssl_key_file),
        "max_waiting": max_waiting,
        "request_seconds": request_seconds,
        "drain_seconds": drain_seconds,
        "sleep_idle_seconds": sleep_idle_seconds,
        "cors_origins": frozenset(cors_origins) if cors_origins else None,
        "tool_call_parser": tool_call_parser,
        "reasoning_parser": reasoning_parser,
    }
    config = replace(ServerConfig.from_env(), **{name: value for name, value in options.items() if value is not None})
    # Until the server takes over, a signal to stop is an ordinary exit, which ends the workers.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    model = models[0] if models else None
    web_ui = find_open_webui() if open_webui else None
    if hosts is not None and hosts.host:
        serve_head(hosts, _setup(name, engine, model, backend_args, model_name))
    if models_dir is not None or models_file is not None or len(models or ()) > 1:
        _refuse_for_several({"--model-name": model_name, "--nnodes": nnodes, "--open-webui": open_webui or None})
        entries = listed(models or [], models_dir, models_file, ttl=model_ttl, backend=backend)

        def make_backend(entry: ModelEntry) -> Backend:
            own = _backend_name(entry.backend)
            return choose(own, _setup(own, options_of(entry, engine), entry.source, backend_args, entry.name)).backend

        for entry in entries:
            options_of(entry, engine).check(native=_backend_name(entry.backend) is BackendName.NATIVE)
        with bind(config.host, config.port) as listener:
            exit_code = serve_several(
                entries, config, listener, make_backend, most_loaded=max_loaded_models, access_log=verbose
            )
        raise typer.Exit(exit_code)
    with bind(config.host, config.port) as listener, ExitStack() as held:
        setup = _setup(name, engine, model, backend_args, model_name)
        if sleep_level is not None:
            given = setup.given | {"sleep_level"}
            setup = replace(setup, engine=replace(setup.engine, sleep_level=sleep_level), given=given)
        choice = choose(name, setup) if hosts is None else held.enter_context(gathered(hosts, name, setup))
        _introduce(choice)
        with started(choice.backend, setup.model.name, terminal_progress()):
            _report_memory(choice.backend)
            with _web_ui(web_ui, open_webui_port, config, listener):
                names = (setup.model.name, *([model] if model else []))
                exit_code = _serve(choice.backend, config, names, listener, access_log=verbose)
    raise typer.Exit(exit_code)


def _ssl_files(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    from rowspan.errors import UsageError

    for option, path in (("--ssl-cert-file", certificate), ("--ssl-key-file", key)):
        if path is not None and not path.is_file():
            raise UsageError(f"{option} {path} is no file.")
    if (certificate is None) != (key is None):
        raise UsageError("HTTPS takes both --ssl-cert-file and --ssl-key-file.", fix="Give the other one, too.")
    return None if certificate is None or key is None else (certificate, key)


def _refuse_for_several(given: Mapping[str, object]) -> None:
    from rowspan.errors import UsageError

    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} is for one model.", fix="Leave it out, or serve one model.")


def _web_ui(
    program: Path | None, port: int, config: ServerConfig, listener: socket.socket
) -> AbstractContextManager[None]:
    """Run Open WebUI beside the server, if the user wants it."""
    from rowspan.config import BackendConfig
    from rowspan.server.listen import url
    from rowspan.server.open_webui import OpenWebUi, beside_the_server

    if program is None:
        return nullcontext()
    backend = BackendConfig.from_env()
    key = min(config.api_keys, default=None)
    web_ui = OpenWebUi(program, f"{url(listener)}/v1", key, backend.data_folder / "open-webui")
    return beside_the_server(web_ui, port, backend.log_folder, lambda line: typer.echo(line, err=True))


def _backend_name(name: str) -> BackendName | None:
    """The backend that the user named; None for auto."""
    from rowspan.backends.protocol import BackendName
    from rowspan.errors import UsageError

    if name == AUTO:
        return None
    if name not in list(BackendName):
        raise UsageError(f"--backend {name} is not known.", fix=f"Choose {', '.join(BackendName)} or {AUTO}.")
    return BackendName(name)


def _setup(
    name: BackendName | None, options: EngineOptions, model: str | None, backend_args: str, model_name: str | None
) -> Setup:
    """The setup that a backend needs to start, with the model's name in the API. Checks the options before anything is
    fetched.
    """
    import shlex
    from dataclasses import replace

    from rowspan.backends.find_model import find_model
    from rowspan.backends.protocol import BackendName, Setup
    from rowspan.cli.progress import terminal_progress
    from rowspan.config import BackendConfig
    from rowspan.errors import UsageError

    engine_config = options.check(native=name == BackendName.NATIVE)
    try:
        arguments = tuple(shlex.split(backend_args))
    except ValueError as error:
        raise UsageError("--backend-args cannot be read.", why=f"{error}.", fix="Close the quotes.") from None
    found = find_model(model, name, terminal_progress())
    if model_name:
        found = replace(found, name=model_name)
    return Setup(
        found, engine_config(Path(found.location)), options.given(), BackendConfig.from_env(arguments=arguments)
    )


def _introduce(choice: Choice) -> None:
    """Print which backend computes, and how, before the model is loaded."""
    from rowspan.backends.native import NativeBackend
    from rowspan.backends.process.child_backend import ChildBackend
    from rowspan.cli.plan.command import show_plan

    backend = choice.backend
    if isinstance(backend, NativeBackend):
        show_plan(backend.blueprint)
    if choice.reason or backend.command:
        why = f", because {choice.reason}" if choice.reason else ""
        on = f" on {backend.placement}" if isinstance(backend, ChildBackend) else ""
        typer.echo(f"Backend: {backend.name} ({backend.version}){on}{why}.", err=True)


def _report_memory(backend: Backend) -> None:
    from rowspan.backends.native import NativeBackend
    from rowspan.cli.console_output import stderr_console
    from rowspan.cli.memory_check import cards_line, memory_line

    if not isinstance(backend, NativeBackend):
        return
    lines = [memory_line(backend.blueprint), cards_line(backend.engine)]
    for line in filter(None, lines):
        stderr_console().print(line, markup=False, highlight=False)


def _serve(
    backend: Backend, config: ServerConfig, names: Sequence[str], listener: socket.socket, *, access_log: bool
) -> int:
    """Print the address, serve until told to stop, and return the exit code. names: the model's, the first of them is
    told.
    """
    from rowspan.cli.console_output import stderr_console
    from rowspan.server.app import create_app  # FastAPI: a second to import, which a wrong option should not cost
    from rowspan.server.listen import listen, url
    from rowspan.server.middleware import is_loopback
    from rowspan.server.serving import serve as serve_app

    name, *aliases = names
    app = create_app(backend, config, name, aliases=aliases)
    listen(listener)
    address = url(listener, "https" if config.ssl_files else "http")
    console = stderr_console()
    console.print(f"{name} is served: console at {address}/, API at {address}/v1", markup=False, highlight=False)
    if not (config.api_keys or config.api_key_file or is_loopback(config.host)):
        console.print("Everyone on the network can use it: --api-key asks them for a key.", style="yellow")
    return serve_app(app, backend, listener, config, access_log=access_log)
