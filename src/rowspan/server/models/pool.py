"""Loads models and unloads them: the least recently used first, never one that answers, never a pinned one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rowspan.backends.protocol import Backend, LoadWatch
from rowspan.errors import OutOfMemoryError, RowspanError
from rowspan.server.error_replies import BusyError, ModelLoadError, UnknownModelError
from rowspan.server.models.entry import ModelEntry, ModelState
from rowspan.server.service import LATEST_TAG

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks for models whose time is over

MakeBackend = Callable[[ModelEntry], Backend]
"""Finds a model's files, fetching them if need be, and makes its backend; called on a thread."""

MakeApp = Callable[[ModelEntry, Backend], Any]
"""Makes the ASGI app that serves one loaded model."""


@dataclass(eq=False)
class PooledModel:
    """A model of the list, and its backend while it is loaded.

    app: of its last backend, which goes on to serve pages that need no model.
    users: requests that use it, or wait for it.
    expires: when it is unloaded unless it is used again, by the clock; None: when others need room.
    """

    entry: ModelEntry
    state: ModelState = ModelState.UNLOADED
    backend: Backend | None = None
    app: Any = None
    failure: RowspanError | None = None
    users: int = 0
    last_used: float = 0.0
    ttl: float | None = None
    expires: float | None = None
    loading: asyncio.Task[None] | None = field(default=None, repr=False)


class ModelPool:
    """All models of a server. Its methods are called on the event loop."""

    def __init__(
        self,
        entries: Sequence[ModelEntry],
        make_backend: MakeBackend,
        make_app: MakeApp,
        *,
        most_loaded: int,
        most_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            entries: no name twice.
            most_loaded: models that may be loaded at the same time.
            most_waiting: requests that may wait for models to load.
        """
        self.models = [PooledModel(entry, ttl=entry.ttl) for entry in entries]
        self._by_name = {name.lower(): model for model in self.models for name in model.entry.names}
        self._make_backend = make_backend
        self._make_app = make_app
        self._most_loaded = most_loaded
        self._most_waiting = most_waiting
        self._waiting = 0
        self._clock = clock
        self._changing = asyncio.Lock()  # one model is loaded or unloaded at a time: they share the memory
        self._freed = asyncio.Event()  # a request ended
        self._watching: asyncio.Task[None] | None = None

    @property
    def default(self) -> PooledModel:
        """The model of requests that name none: the first."""
        return self.models[0]

    def find(self, name: str | None) -> PooledModel:
        """The model of a name, in any case. Raises UnknownModelError, which lists those that there are."""
        if not name:
            return self.default
        found = self._by_name.get(name.lower()) or self._by_name.get(name.lower().removesuffix(LATEST_TAG))
        if found is None:
            here = ", ".join(model.entry.name for model in self.models)
            raise UnknownModelError(
                f"There is no model {name!r:.200} here.", field="model", fix=f"This server has {here}."
            )
        return found

    @asynccontextmanager
    async def used(self, model: PooledModel) -> AsyncIterator[Any]:
        """Have a model loaded for the length of the block. Yields its app.

        Raises:
            BusyError: too many requests wait for models, or all that are loaded are in use.
            RowspanError: it cannot be loaded.
        """
        model.users += 1
        try:
            if model.state is not ModelState.LOADED:
                await self._wait_for(model)
            model.last_used = self._clock()
            yield model.app
        finally:
            model.users -= 1
            model.last_used = self._clock()
            model.expires = None if model.ttl is None else model.last_used + model.ttl
            self._freed.set()
            if self._watching is None or self._watching.done():
                self._watching = asyncio.create_task(self._watch())

    async def load(self, model: PooledModel) -> None:
        """Have a model loaded, and leave it so. Raises the same as `used`."""
        async with self.used(model):
            pass

    async def unload(self, model: PooledModel) -> bool:
        """Unload a model once its requests have ended, unless further ones come. False if it was not loaded."""
        async with self._changing:
            while model.users and model.state is ModelState.LOADED:
                await self._someone_ends()
            return await self._unload(model)

    async def close(self) -> None:
        """Unload all models at once."""
        if self._watching is not None:
            self._watching.cancel()
        for model in self.models:
            if model.loading is not None:
                model.loading.cancel()
                with suppress(BaseException):
                    await model.loading
            await self._unload(model)

    async def _wait_for(self, model: PooledModel) -> None:
        if self._waiting >= self._most_waiting:
            raise BusyError(
                "The server is busy loading models.",
                why=f"{self._waiting} requests wait for one.",
                fix="Try again in a moment, or start the server with a larger --max-waiting.",
            )
        if model.loading is None or model.loading.done():
            model.loading = asyncio.create_task(self._load(model))
        self._waiting += 1
        try:
            await asyncio.shield(model.loading)  # it goes on for others who wait, and for the next request
        finally:
            self._waiting -= 1

    async def _load(self, model: PooledModel) -> None:
        async with self._changing:
            if model.state is ModelState.LOADED:
                return
            model.state, model.failure = ModelState.LOADING, None
            try:
                for other in self.models:
                    if model.entry.group and other is not model and other.entry.group == model.entry.group:
                        await self._make_way(other)
                while sum(other.backend is not None for other in self.models) >= self._most_loaded:
                    await self._make_room(model)
                while True:
                    try:
                        model.backend = await asyncio.to_thread(self._started, model.entry)
                        break
                    except OutOfMemoryError:
                        if not any(other.backend is not None for other in self.models):
                            raise
                        await self._make_room(model)
                model.app = self._make_app(model.entry, model.backend)
                model.state = ModelState.LOADED
                log.info("%s is loaded.", model.entry.name)
            except RowspanError as error:
                model.state, model.failure = ModelState.FAILED, error
                log.error("%s could not be loaded. %s", model.entry.name, error)
                if isinstance(error, BusyError):
                    raise
                raise ModelLoadError(f"{model.entry.name} could not be loaded.", why=str(error)) from error
            except BaseException:
                model.state = ModelState.FAILED
                raise

    def _started(self, entry: ModelEntry) -> Backend:
        backend = self._make_backend(entry)
        try:
            backend.start(LoadWatch())
        except BaseException:
            backend.stop()
            raise
        return backend

    async def _make_room(self, wanted: PooledModel) -> None:
        """Unload the least recently used model that may be; wait for one whose requests have not ended.

        Raises:
            BusyError: all that are loaded are pinned.
        """
        while True:
            candidates = [other for other in self.models if other.backend is not None and not other.entry.pinned]
            if not candidates:
                raise BusyError(
                    f"There is no room for {wanted.entry.name}.",
                    why="All models that are loaded are pinned.",
                    fix="Pin fewer models, or start the server with a larger --max-loaded-models.",
                )
            idle = [other for other in candidates if not other.users]
            if idle:
                await self._unload(min(idle, key=lambda other: other.last_used))
                return
            await self._someone_ends()

    async def _make_way(self, other: PooledModel) -> None:
        while other.backend is not None:
            if other.users:
                await self._someone_ends()
            else:
                await self._unload(other)

    async def _someone_ends(self) -> None:
        self._freed.clear()
        await self._freed.wait()

    async def _unload(self, model: PooledModel) -> bool:
        backend, model.backend = model.backend, None
        model.expires = None
        if backend is None:
            return False
        model.state = ModelState.UNLOADED
        await asyncio.to_thread(backend.stop)
        log.info("%s is unloaded.", model.entry.name)
        return True

    async def _watch(self) -> None:
        """Unload models whose time is over, until no model has one."""
        while any(model.expires is not None for model in self.models):
            await asyncio.sleep(LOOK_SECONDS)
            await self.unload_expired()

    async def unload_expired(self) -> None:
        """Unload the models that nobody has used for their time to live."""
        for model in self.models:
            over = model.expires is not None and model.expires <= self._clock()
            if over and not model.users and not self._changing.locked():
                async with self._changing:
                    if not model.users:
                        await self._unload(model)
