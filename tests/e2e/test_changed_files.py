"""A model file that changes under the engine: old and new are never mixed, and the service comes back with the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.errors import CheckpointError, RowspanError
from rowspan.plan.device import parse_devices
from rowspan.scheduler.request import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return TinyModel(seed=1).write(tmp_path / "model.gguf")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return TinyModel(seed=2).write(tmp_path / "other.gguf")


@pytest.fixture
def others() -> list[psutil.Process]:
    """Workers of other tests' engines."""
    return psutil.Process().children()


@pytest.fixture
def engine(path: Path, others: list[psutil.Process]) -> Iterator[Engine]:
    with Engine.open(EngineConfig(path, parse_devices("cpu:0"), parallel=2)) as engine:
        yield engine


def answer(engine: Engine) -> list[int]:
    return [token.token for piece in engine.generate([1, 5, 9], GREEDY) for token in piece.tokens]


def kill_worker(engine: Engine, others: list[psutil.Process]) -> None:
    """Kill it between two requests, and wait until the engine can see that."""
    group = engine._core._group
    assert group is not None
    (worker,) = [child for child in psutil.Process().children() if child not in others]
    worker.kill()
    assert eventually(lambda: not group.is_whole)


def test_a_file_moved_over_the_model_is_not_mixed_with_it(
    path: Path, other: Path, engine: Engine, others: list[psutil.Process]
) -> None:
    before, kept = answer(engine), path.with_name("kept.gguf")
    shutil.copy(path, kept)
    os.replace(other, path)
    assert answer(engine) == before, "workers have the old file open"
    kill_worker(engine, others)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"model\.gguf has changed.*Start Rowspan again"):
            answer(engine)
        assert isinstance(engine.failure, CheckpointError), "health tells"
    os.replace(kept, path)
    assert answer(engine) == before
    assert engine.failure is None


def test_a_file_that_is_written_into_is_found_at_once(path: Path, other: Path, engine: Engine) -> None:
    before, old = answer(engine), path.read_bytes()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    with pytest.raises(CheckpointError, match="has changed"):
        answer(engine)
    with path.open("r+b") as file:
        file.write(old)
    assert answer(engine) == before


def test_files_that_are_touched_gone_or_the_same_are_no_matter(
    path: Path, engine: Engine, others: list[psutil.Process]
) -> None:
    before = answer(engine)
    os.utime(path)
    assert answer(engine) == before
    shutil.copy(path, path.with_name("same.gguf"))
    os.replace(path.with_name("same.gguf"), path)
    kill_worker(engine, others)
    assert answer(engine) == before
    gone = path.rename(path.with_name("gone.gguf"))
    assert answer(engine) == before
    kill_worker(engine, others)
    with pytest.raises(RowspanError, match="no file"):
        answer(engine)
    gone.rename(path)
    assert answer(engine) == before
