"""Passes items from the engine's thread to an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class LoopMailbox:
    """Wakes a loop once for all items of a step: a wake-up costs a system call and some Python."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._letters: deque[tuple[asyncio.Queue[Any], object]] = deque()
        self._is_called = False

    def put(self, queue: asyncio.Queue[Any], item: object) -> None:
        """Put an item into a queue of the loop, from any thread. If the loop is closed, nobody waits for the item."""
        self._letters.append((queue, item))
        if not self._is_called and not self.loop.is_closed():
            self._is_called = True
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # before looking: what comes later calls again
        while self._letters:
            queue, item = self._letters.popleft()
            queue.put_nowait(item)
