"""Puts an idle backend to sleep, so that it gives its devices back; the same for every backend."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rowspan.backends.protocol import Backend, HealthState
from rowspan.errors import RowspanError

log = logging.getLogger(__name__)


class IdlePolicy:
    """Puts the backend to sleep after a time without requests, and wakes it for the next one. GET /health and GET
    /metrics do not wake it.

    Args:
        seconds: None: never sleep.
        is_busy: returns whether any request is unfinished.
    """

    def __init__(self, backend: Backend, seconds: float | None, is_busy: Callable[[], bool]) -> None:
        self._backend = backend
        self._seconds = seconds
        self._is_busy = is_busy
        self._last = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # one falls asleep or wakes at a time

    async def wake(self) -> None:
        """Wake the backend, before a request uses it. Raises the same as `Backend.wake`."""
        if self._seconds is None and self._backend.health().state != HealthState.ASLEEP:
            return
        self._last = time.monotonic()
        async with self._changing:
            if self._backend.health().state == HealthState.ASLEEP:
                await self._backend.wake()
        if self._seconds is None:
            return
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._seconds))

    async def sleep(self) -> bool:
        """Put the backend to sleep now, unless a request is unfinished; the next one wakes it. Returns whether it
        sleeps."""
        async with self._changing:
            if self._is_busy():
                return False
            if self._backend.health().state == HealthState.READY:
                await self._backend.sleep()
            return True

    async def _watch(self, seconds: float) -> None:
        """Wait for a time without requests, and put the backend to sleep."""
        while True:
            await asyncio.sleep(max(0.05, self._last + seconds - time.monotonic()))
            if self._is_busy():
                self._last = time.monotonic()
            if time.monotonic() < self._last + seconds:
                continue
            async with self._changing:
                if self._is_busy() or time.monotonic() < self._last + seconds:
                    continue
                try:
                    await self._backend.sleep()
                    log.info("Asleep after %g s without requests.", seconds)
                except RowspanError as error:
                    log.error("It could not fall asleep. %s", error)
                return
