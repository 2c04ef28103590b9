"""Backends for tests: what they are told, and one whose program is a fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit import fake_llama_server

from rowspan.backends.llamacpp.llamacpp_backend import LlamaCpp
from rowspan.backends.llamacpp.llamacpp_probe import probe
from rowspan.backends.process.child import Patience
from rowspan.backends.process.child_backend import ChildBackend
from rowspan.backends.protocol import Model, ModelFormat, Setup
from rowspan.config import BackendConfig, EngineConfig
from rowspan.plan.split_mode import SplitMode

QUICK = Patience(end=1.0, back_off=(0.05, 0.05, 0.05))


def setup_for(
    path: Path, logs: Path, *, format: ModelFormat = ModelFormat.GGUF, arguments: str = "", **options: Any
) -> Setup:
    """options: fields of EngineConfig, as if a user had set them."""
    engine = EngineConfig(path, **{"split_mode": SplitMode.NONE, "parallel": 2, **options})
    backend = BackendConfig(tuple(arguments.split()), log_folder=logs)
    return Setup(Model(path.stem, str(path), format, 100), engine, frozenset(options), backend)


def fake_backend(setup: Setup) -> ChildBackend:
    """llama.cpp's, but of a program that computes nothing."""
    return ChildBackend(LlamaCpp(setup, fake_llama_server.COMMAND, probe(fake_llama_server.COMMAND)), setup, QUICK)
