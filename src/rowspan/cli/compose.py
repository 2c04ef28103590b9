"""`rowspan compose`: writes a compose.yaml for Rowspan with a backend, and Open WebUI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HEADER = """\
# Written by `rowspan compose` for this machine. Put a secret beside it, then start both:
#   echo "ROWSPAN_API_KEY=$(openssl rand -hex 24)" > .env && docker compose up -d
# Open WebUI is then at http://localhost:{web_port}, as soon as the model is loaded, and Rowspan's API at
# http://localhost:8000/v1. Open the page at once: its first visitor becomes its administrator.
"""


def compose(
    model: Annotated[Path, typer.Argument(help="GGUF file; for vLLM a Hugging Face folder.")],
    backend: Annotated[str, typer.Option("--backend", help="native, llamacpp or vllm.")] = "native",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - for stdout. It is not overwritten.")
    ] = Path("compose.yaml"),
    serve_args: Annotated[
        str, typer.Option("--serve-args", help='More options of `rowspan serve`: "-sm row --devices cuda:0,cuda:1".')
    ] = "",
    image: Annotated[
        str | None, typer.Option("--image", help="An image that holds Rowspan; none: it is built from --source.")
    ] = None,
    source: Annotated[Path, typer.Option("--source", help="Rowspan's repository, to build the image from.")] = Path(
        "."
    ),
    web_port: Annotated[int, typer.Option("--web-port", min=1, max=65535, help="Where Open WebUI answers.")] = 3000,
    web_host: Annotated[
        str, typer.Option("--web-host", help="Address at which Open WebUI answers; 0.0.0.0: to all networks.")
    ] = "127.0.0.1",
    base: Annotated[
        str | None, typer.Option("--base", help="Image to build on. [default: one for the backend and the cards]")
    ] = None,
    web_ui_image: Annotated[
        str | None, typer.Option("--web-ui-image", help="Image of Open WebUI. [default: the version that was tried]")
    ] = None,
    root: Annotated[Path, typer.Option("--root", help="Folder of a recorded machine; / is this one.")] = Path("/"),
) -> None:
    """Write a compose file that serves a model with Open WebUI in front, with this machine's cards handed in."""
    import shlex

    import yaml

    from rowspan.backends.compose import DOCKERFILE, WEB_UI, Wanted
    from rowspan.backends.compose import compose as content
    from rowspan.backends.protocol import BackendName
    from rowspan.cli.open_root import open_root
    from rowspan.errors import ModelNotFoundError, UsageError
    from rowspan.rig.probe.rig import probe

    if backend not in list(BackendName):
        raise UsageError(f"--backend {backend} is not known.", fix=f"Choose {', '.join(BackendName)}.")
    if not model.exists():
        raise ModelNotFoundError(f"There is no {model}.", fix="Fetch it with `rowspan pull`, and give its path.")
    if model.is_dir() != (backend == BackendName.VLLM):
        raise UsageError(
            f"{model} is {'a folder' if model.is_dir() else 'a file'}, which --backend {backend} does not read.",
            fix="Give vLLM a Hugging Face folder, and the others a GGUF file.",
        )
    if image is None and not (source / DOCKERFILE).is_file():
        raise UsageError(
            f"There is no {DOCKERFILE} in {source.absolute()}.",
            why="The image is built from Rowspan's repository.",
            fix="Name its folder with --source, or an image with --image.",
        )
    try:
        arguments = shlex.split(serve_args)
    except ValueError as error:
        raise UsageError("--serve-args cannot be read.", why=f"{error}.", fix="Close the quotes.") from None
    if image is not None and base is not None:
        raise UsageError("--base is for an image that is built, and --image is built already.", fix="Leave one out.")
    wanted = Wanted(
        BackendName(backend),
        model.absolute(),
        arguments,
        image,
        source.absolute(),
        web_port,
        base=base,
        web_ui=web_ui_image or WEB_UI,
        web_host=web_host,
    )
    machine = open_root(root)
    groups = _groups(machine.text("/etc/group") if machine.has("/etc/group") else "")
    text = HEADER.format(web_port=web_port) + yaml.safe_dump(
        content(wanted, probe(machine), groups), sort_keys=False, width=120
    )
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{output} is there already.", fix="Name another file with -o, or remove that one.") from None
    except OSError as error:
        raise UsageError(f"{output} cannot be written.", why=f"{error.strerror}.") from None
    typer.echo(f"{output} is written. Its first lines say how to start it.", err=True)


def _groups(text: str) -> dict[str, int]:
    """Ids of groups by name, from the text of /etc/group."""
    lines = [line.split(":") for line in text.splitlines()]
    return {fields[0]: int(fields[2]) for fields in lines if len(fields) > 2 and fields[2].isdigit()}
