"""Answers the hub's two questions: where is this model, and which models are here?"""

from __future__ import annotations

from pathlib import Path

from rowspan.config import HubConfig
from rowspan.errors import ModelNotFoundError
from rowspan.hub.catalog import CATALOG, Entry
from rowspan.hub.download_progress import ProgressSink, Silent
from rowspan.hub.file_cache import FileCache
from rowspan.hub.gguf_files import part_names
from rowspan.hub.huggingface import cached_models
from rowspan.hub.model_names import parse
from rowspan.hub.source import InstalledModel, ModelFiles


def resolve(
    name: str, *, progress: ProgressSink | None = None, offline: bool = False, config: HubConfig | None = None
) -> ModelFiles:
    """The files of a model, fetched if they are not on this machine yet.

    Args:
        name: any name that `rowspan.hub.model_names.parse` takes.
        progress: receives the progress of downloads.
        offline: never use the network.
        config: None reads it from the environment.

    Raises:
        ModelNotFoundError: there is no such model, or it is not here and `offline` is set.
        DownloadError: it could not be fetched.
    """
    config = config or HubConfig.from_env()
    canonical, source = parse(name)
    paths = source.locate(config)
    if paths is None and offline and source.kind != "local file":
        raise ModelNotFoundError(
            f"{canonical} is not on this machine.",
            why="Downloads are switched off.",
            fix=f"Fetch it first: rowspan pull {canonical}.",
        )
    if paths is None:
        paths = source.fetch(config, canonical, progress or Silent())
    size = sum(path.stat().st_size for path in paths)
    record = FileCache(config.cache).record(paths[0]) if len(paths) == 1 else None
    return ModelFiles(canonical, paths[0], size, str(source), record.sha256 if record else None)


def installed(config: HubConfig | None = None) -> list[InstalledModel]:
    """Every model in Rowspan's and Hugging Face's caches, sorted by name. A model of the catalog has its catalog
    name.
    """
    config = config or HubConfig.from_env()
    short_names = {path: entry.name for entry, path in catalog_state(config) if path is not None}
    cache = FileCache(config.cache)
    found = {path: record.source for path, record in cache.records()}
    models = []
    for path, source in found.items():
        parts = [path.with_name(part) for part in part_names(path.name)]
        if path == parts[0] and all(part in found for part in parts):
            models.append(_installed(short_names.get(path, source), source, parts))
    for model, paths in cached_models(config):
        models.append(_installed(short_names.get(paths[0], str(model)), str(model), paths))
    return sorted(models, key=lambda model: model.name)


def delete(path: Path, config: HubConfig | None = None) -> int:
    """Delete a model that Rowspan fetched, by its first file, and return how many bytes that freed.

    Raises:
        ModelNotFoundError: it is none of Rowspan's cache; files of others stay where they are.
    """
    config = config or HubConfig.from_env()
    cache = FileCache(config.cache)
    known = {each: record.size for each, record in cache.records()}
    parts = [path.with_name(part) for part in part_names(path.name)]
    if any(part not in known for part in parts):
        raise ModelNotFoundError(
            f"{path} is not in Rowspan's own cache.",
            why="Only what Rowspan fetched is deleted.",
            fix="Delete it with the program that brought it; Hugging Face's is `hf cache delete`.",
        )
    for part in parts:
        cache.remove(part)
    return sum(known[part] for part in parts)


def catalog_state(config: HubConfig) -> list[tuple[Entry, Path | None]]:
    """Every entry of the catalog, with the model's first file if it is here."""
    located = ((entry, entry.source.locate(config)) for entry in CATALOG)
    return [(entry, paths[0] if paths else None) for entry, paths in located]


def _installed(name: str, source: str, paths: list[Path]) -> InstalledModel:
    stats = [path.stat() for path in paths]
    return InstalledModel(
        name, paths[0], sum(stat.st_size for stat in stats), source, max(stat.st_mtime for stat in stats)
    )
