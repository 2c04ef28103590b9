"""`rowspan serve` with several models: which there are, and how each is opened."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from rowspan.cli.engine_options import EngineOptions
from rowspan.errors import UsageError
from rowspan.server.models.entry import ModelEntry

if TYPE_CHECKING:
    import socket

    from rowspan.backends.protocol import Backend
    from rowspan.config import ServerConfig

# Keys of a model in the file, beside the engine's options.
KEYS: dict[str, Any] = {
    "source": str,
    "aliases": list,
    "group": str,
    "pinned": bool,
    "ttl": (int, float),
    "backend": str,
}


def listed(
    typed: Sequence[str], folder: Path | None, file: Path | None, *, ttl: float | None, backend: str
) -> list[ModelEntry]:
    """All models that the user named, in that order: on the command line, in a file, in a folder.

    Raises:
        UsageError: the file is wrong, the folder is none, or two models have one name.
    """
    found = [ModelEntry(_short(name), name, aliases=_aliases(name), ttl=ttl, backend=backend) for name in typed]
    if file is not None:
        found += _of_file(file, ttl, backend)
    if folder is not None:
        found += _of_folder(folder, ttl, backend)
    if not found:
        raise UsageError("There is no model to serve.", fix="Name some, or a --models-dir with GGUF files.")
    names: dict[str, ModelEntry] = {}
    for entry in found:
        for name in entry.names:
            if names.setdefault(name.lower(), entry) is not entry:
                raise UsageError(f"Two models are called {name}.", fix="Give one of them another name in --models.")
    return found


def serve_several(
    entries: Sequence[ModelEntry],
    config: ServerConfig,
    listener: socket.socket,
    make_backend: Callable[[ModelEntry], Backend],
    *,
    most_loaded: int,
    access_log: bool,
) -> int:
    """Load the first model and the pinned ones, serve all until told to stop, and return the exit code."""
    from rowspan.cli.console_output import stderr_console
    from rowspan.server.app import create_app, guarded
    from rowspan.server.listen import listen, url
    from rowspan.server.models.pool import ModelPool
    from rowspan.server.models.router import ModelRouter
    from rowspan.server.serving import serve_models

    def make_app(entry: ModelEntry, backend: Backend) -> Any:
        return create_app(backend, config, entry.name, aliases=entry.aliases, is_guarded=False)

    pool = ModelPool(entries, make_backend, make_app, most_loaded=most_loaded, most_waiting=config.max_waiting)
    listen(listener)
    names = ", ".join(entry.name for entry in entries)
    address = url(listener, "https" if config.ssl_files else "http")
    stderr_console().print(f"{names}: API at {address}/v1", markup=False, highlight=False)
    return serve_models(guarded(ModelRouter(pool), config), pool, listener, config, access_log=access_log)


def options_of(entry: ModelEntry, shared: EngineOptions) -> EngineOptions:
    """The engine's options of one model: those of the command line, with its own in the file before them."""
    own: dict[str, Any] = dict(entry.options)
    return replace(shared, **own)


def _short(name: str) -> str:
    """What clients call a model: a file's name without its ending, or the name that was typed."""
    return Path(name).stem if name.lower().endswith(".gguf") else name


def _aliases(name: str) -> tuple[str, ...]:
    return (name,) if _short(name) != name else ()


def _of_folder(folder: Path, ttl: float | None, backend: str) -> list[ModelEntry]:
    from rowspan.checkpoint.gguf import PART_NAME

    if not folder.is_dir():
        raise UsageError(f"--models-dir {folder} is no folder.", fix="Give the folder of your GGUF files.")
    entries = []
    for path in sorted(folder.rglob("*.gguf")):
        part = PART_NAME.fullmatch(path.name)
        if part is not None and int(part["number"]) > 1:
            continue
        name = part["stem"] if part is not None else path.stem
        entries.append(ModelEntry(name, str(path), aliases=(path.name,), ttl=ttl, backend=backend))
    return entries


def _of_file(file: Path, ttl: float | None, backend: str) -> list[ModelEntry]:
    try:
        told = tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"--models {file} cannot be read.", why=f"{error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--models {file} is no TOML.", why=f"{error}.") from None
    models = told.get("models")
    if not isinstance(models, Mapping) or not models:
        raise UsageError(f"--models {file} names no model.", fix='Write a table for each: [models."qwen3:8b"]')
    return [_entry(file, name, about, ttl, backend) for name, about in models.items()]


def _entry(file: Path, name: str, about: Any, ttl: float | None, backend: str) -> ModelEntry:
    where = f'[models."{name}"] in {file}'
    if not isinstance(about, Mapping):
        raise UsageError(f"{where} is no table.", fix=f'Write [models."{name}"] on a line of its own.')
    options: dict[str, object] = {}
    given: dict[str, Any] = {}
    for key, value in about.items():
        if key in KEYS:
            if not isinstance(value, KEYS[key]) or (isinstance(value, bool) and KEYS[key] is not bool):
                raise UsageError(f"{key} of {where} is {value!r:.60}.", fix="See docs/models.md.")
            given[key] = value
        else:
            options |= _option(key, value, where)
    aliases = given.pop("aliases", [])
    if not all(isinstance(alias, str) for alias in aliases):
        raise UsageError(f"aliases of {where} are {aliases!r:.60}.", fix="Give a list of names.")
    source = given.pop("source", name)
    defaults: dict[str, Any] = {"ttl": ttl, "backend": backend}
    return ModelEntry(name, source, aliases=tuple(aliases), options=tuple(options.items()), **(defaults | given))


def _option(key: str, value: object, where: str) -> dict[str, object]:
    """An engine's option by its name on the command line, without the dashes."""
    hints = get_type_hints(EngineOptions, include_extras=True)
    known: list[str] = []
    for field in fields(EngineOptions):
        kind, option = get_args(hints[field.name])[:2]
        names = [name.lstrip("-") for name in (option.default, *option.param_decls)]  # typer's first is its "default"
        known += names
        if key in names:
            wanted = [each for each in (get_args(kind) or (kind,)) if each is not type(None)]
            if float in wanted and type(value) is int:
                value = float(value)
            if type(value) not in wanted:
                raise UsageError(f"{key} of {where} is {value!r:.60}.", fix=f"Its type is {wanted[0].__name__}.")
            return {field.name: value}
    raise UsageError(f"{key!r} of {where} is not known.", fix=f"Known are {', '.join([*KEYS, *sorted(known)])}.")
