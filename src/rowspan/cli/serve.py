"""`rowspan serve`: the API and the chat page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowspan.cli.engine_options import EngineOptions, with_engine_options

if TYPE_CHECKING:
    import socket

    from rowspan.config import ServerConfig
    from rowspan.engine.engine import Engine


@with_engine_options
def serve(
    engine: EngineOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model, as for `rowspan pull`. [default: the small model that `rowspan models` lists first]"
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on; 0.0.0.0 for all networks. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="0 takes any free one. [default: 8000]")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", help="Ask clients for this key; may be given again. [default: ROWSPAN_API_KEY]"),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", "--alias", help="What clients call the model. [default: its name]")
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option("--max-waiting", min=0, help="Requests beyond those that run; more get 429. [default: 256]"),
    ] = None,
    drain_seconds: Annotated[
        float | None,
        typer.Option("--drain-seconds", min=0, help="Time to finish answers after SIGTERM. [default: 30]"),
    ] = None,
    nnodes: Annotated[
        int | None,
        typer.Option("--nnodes", min=1, help="Hosts that run the model together. [default: 1, or torchrun's]"),
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
    from contextlib import nullcontext
    from dataclasses import replace

    from rowspan import hub
    from rowspan.cli.console_output import stderr_console
    from rowspan.cli.memory_check import memory_line
    from rowspan.cli.open_engine import open_engine
    from rowspan.cli.plan import show_plan
    from rowspan.cli.progress import terminal_progress
    from rowspan.cli.several_hosts import gathered, serve_head
    from rowspan.config import ServerConfig
    from rowspan.engine.open import draw_up
    from rowspan.hosts.rendezvous import hosts_config
    from rowspan.server.listen import bind

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    engine_config = engine.check()
    hosts = hosts_config(nnodes, node_rank, rdzv)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_keys": frozenset(api_key) if api_key else None,
        "max_waiting": max_waiting,
        "drain_seconds": drain_seconds,
    }
    config = replace(ServerConfig.from_env(), **{name: value for name, value in options.items() if value is not None})
    # Until the server takes over, being told to stop is an ordinary exit: workers are taken down on the way.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    if hosts is not None and hosts.host:
        serve_head(hosts, engine_config(hub.resolve(model or hub.DEFAULT_MODEL, progress=terminal_progress()).path))
    with bind(config.host, config.port) as listener:
        files = hub.resolve(model or hub.DEFAULT_MODEL, progress=terminal_progress())
        one = engine_config(files.path)
        with (
            nullcontext((draw_up(one), None)) if hosts is None else gathered(hosts, one, engine.split_mode) as (
                blueprint,
                start,
            )
        ):
            show_plan(blueprint)
            with open_engine(blueprint, terminal_progress(), start) as running:
                if line := memory_line(blueprint):
                    stderr_console().print(line, markup=False, highlight=False)
                exit_code = _serve(running, config, model_name or files.name, listener, access_log=verbose)
    raise typer.Exit(exit_code)


def _serve(engine: Engine, config: ServerConfig, name: str, listener: socket.socket, *, access_log: bool) -> int:
    """Say where, and serve until told to stop; the exit code."""
    from rowspan.cli.console_output import stderr_console
    from rowspan.server.app import create_app  # FastAPI: a second to import, which a wrong option should not cost
    from rowspan.server.gatekeepers import is_loopback
    from rowspan.server.listen import listen, url
    from rowspan.server.run import serve as serve_app

    app = create_app(engine, config, name)
    listen(listener)
    address = url(listener)
    console = stderr_console()
    console.print(f"{name} is served: web chat at {address}/, API at {address}/v1", markup=False, highlight=False)
    if not config.api_keys and not is_loopback(config.host):
        console.print("Everyone on the network can use it: --api-key asks them for a key.", style="yellow")
    return serve_app(app, engine, listener, drain_seconds=config.drain_seconds, access_log=access_log)
