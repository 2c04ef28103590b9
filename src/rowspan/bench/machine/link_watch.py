"""Watches PCIe links while something runs: idle links slow down, and reach full speed only under load."""

from __future__ import annotations

import threading

from rowspan.bench.machine.circumstances import links_now
from rowspan.rig.root import Root

PAUSE = 0.5  # seconds between two looks


class LinkWatch:
    """Reads the cards' links for as long as the `with` block lasts, at least once. Use it for runs that are not timed.

    seen: the last reading before the block ended; None if no card tells.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: str | None = None

    def __enter__(self) -> LinkWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.seen = links_now(self._root)
            if self._over.wait(PAUSE):
                return
