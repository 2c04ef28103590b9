"""What the console asks of the server that it is part of."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import Backend
from rowspan.engine.blueprint import Blueprint


class Served(Protocol):
    """The server's service, as far as the console needs it."""

    backend: Backend
    model_name: str

    async def sleep(self) -> bool:
        """Give the devices back, unless a request is unfinished; whether that was done."""
        ...

    async def wake(self) -> None:
        """Get ready again."""
        ...


def blueprint_of(backend: Backend) -> Blueprint | None:
    """How the native engine runs its model; None for other engines."""
    return backend.blueprint if isinstance(backend, NativeBackend) else None


def model_path_of(backend: Backend) -> Path | None:
    blueprint = blueprint_of(backend)
    return None if blueprint is None else blueprint.config.model_path
