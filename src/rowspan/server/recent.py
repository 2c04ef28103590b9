"""The last requests: when, where, how they ended and how long they took. Nothing of what they said."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.types import Scope

from rowspan.server.error_replies import ERROR_CODE

KEPT = 300
# What the console and monitoring ask all the time would push everything else out.
LEFT_OUT = ("/console/", "/metrics", "/health")


class RecentRequests:
    """The last `KEPT` requests, the newest first."""

    def __init__(self) -> None:
        self._kept: deque[Mapping[str, Any]] = deque(maxlen=KEPT)

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Keep a request that has ended."""
        path = scope["path"]
        if path == "/" or path.startswith(LEFT_OUT):
            return
        self._kept.appendleft(
            {
                "time": time.time(),
                "method": scope["method"],
                "path": path[:200],
                "status": status,
                "seconds": round(seconds, 4),
                "error": scope.get(ERROR_CODE),
            }
        )

    def listed(self) -> list[Mapping[str, Any]]:
        return list(self._kept)


def recent_routes(recent: RecentRequests) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/console/api/requests")
    async def requests() -> dict[str, Any]:
        return {"requests": recent.listed()}

    return router
