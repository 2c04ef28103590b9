"""Downloads that the console has begun: one at a time, each with its progress."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from rowspan import hub
from rowspan.errors import RowspanError

log = logging.getLogger(__name__)
Json = dict[str, Any]


@dataclass
class Pull:
    """One download, and the `ProgressSink` that follows it. state: "waiting", "running", "done" or "failed"."""

    name: str
    state: str = "waiting"
    label: str = ""
    done: int = 0
    total: int | None = None
    error: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self, label: str, total: int | None) -> None:
        with self._lock:
            self.label, self.total, self.done = label, total, 0

    def advance_to(self, done: int) -> None:
        self.done = done

    def finish(self) -> None:
        pass

    def to_dict(self) -> Json:
        names = ("name", "state", "label", "done", "total", "error")
        with self._lock:
            return {name: getattr(self, name) for name in names}


class Pulls:
    """All downloads since the server's start. A thread runs while there is one."""

    def __init__(self) -> None:
        self._pulls: dict[str, Pull] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, name: str) -> None:
        """Fetch a model as soon as those before it are here; one that failed is tried again."""
        with self._lock:
            known = self._pulls.get(name)
            if known is not None and known.state in ("waiting", "running"):
                return
            self._pulls.pop(name, None)
            self._pulls[name] = Pull(name)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="console-pulls", daemon=True)
                self._thread.start()

    def listed(self) -> list[Json]:
        with self._lock:
            return [pull.to_dict() for pull in self._pulls.values()]

    def _next(self) -> Pull | None:
        with self._lock:
            waiting = next((pull for pull in self._pulls.values() if pull.state == "waiting"), None)
            if waiting is None:
                self._thread = None
            else:
                waiting.state = "running"
            return waiting

    def _work(self) -> None:
        while (pull := self._next()) is not None:
            try:
                hub.resolve(pull.name, progress=pull)
                pull.state = "done"
            except RowspanError as error:
                pull.error, pull.state = str(error), "failed"
            except Exception:
                log.exception("Fetching %s failed.", pull.name)
                pull.error, pull.state = "The server's log says more.", "failed"
