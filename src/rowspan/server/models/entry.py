"""What the server knows of a model that it can load."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ModelState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"  # the last try to load it; the next request tries again


@dataclass(frozen=True)
class ModelEntry:
    """A model of the list.

    name, aliases: by which clients call it, in any case.
    source: what it is loaded from, as the command line takes it.
    group: of models of one group only one is loaded at a time; "": in none.
    pinned: loaded at the start, and not unloaded for others.
    ttl: seconds without a request after which it is unloaded; None: it stays while there is room.
    backend: the engine's name; "auto": as chosen for the model.
    options: of the engine, by the names of `rowspan.cli.engine_options.EngineOptions`.
    """

    name: str
    source: str
    aliases: tuple[str, ...] = ()
    group: str = ""
    pinned: bool = False
    ttl: float | None = None
    backend: str = "auto"
    options: tuple[tuple[str, object], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)
