"""The console: pages in the browser over the same HTTP API that every client uses, and what they need beyond it."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from rowspan.console.attachments import attachment_routes
from rowspan.console.bench_routes import bench_routes
from rowspan.console.conversation_routes import conversation_routes
from rowspan.console.conversations import Conversations
from rowspan.console.model_routes import model_routes
from rowspan.console.rig_routes import rig_routes
from rowspan.console.served import Served
from rowspan.console.static_files import static_routes


def console_routes(served: Served, conversations: Path) -> list[APIRouter]:
    """All routes of the console: its files at / and /console/assets, the rest below /console/api."""
    stored = conversation_routes(Conversations(conversations))
    return [
        static_routes(),
        stored,
        attachment_routes(),
        rig_routes(served),
        model_routes(served),
        bench_routes(served),
    ]
