"""The cache of a rank on a processor, which is made once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.comm.meeting import Meeting
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.worker.worker import Worker


@pytest.mark.parametrize("isa", [None, "torch"])
def test_it_is_never_said_to_be_larger_than_it_is(tmp_path: Path, isa: str | None) -> None:
    """Beside cards, whose room changes."""
    path = TinyModel("llama", context_length=256).write(tmp_path / "tiny.gguf")
    (setup,) = make_blueprint(EngineConfig(path, cpu_isa=isa, block_size=16)).setups()
    setup = replace(setup, meeting=Meeting(None, 0, [-1], Path("unused")), cores=(), threads=1)
    with closing(Worker(setup)) as worker:
        small, large = worker.create_cache(2), worker.create_cache(setup.n_blocks)
    assert small.n_blocks == large.n_blocks == setup.n_blocks
    assert small.cache_bytes == large.cache_bytes
