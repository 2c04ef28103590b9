"""No header whatever may lead to a crash, a hang or a huge allocation: only to a model, or to a RowspanError."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import gguf_bytes

from rowspan.checkpoint.open import open_checkpoint
from rowspan.errors import RowspanError
from rowspan.model.spec import ModelSpec

MODEL = TinyModel(architecture="qwen3", n_layers=1, hidden_size=32, ffn_size=32, scheme="Q4_0")
METADATA, TENSORS = MODEL.metadata(), MODEL.tensors()
SOUND = gguf_bytes(METADATA, TENSORS)
HEADER_BYTES = SOUND.rindex(b"output_norm.weight") + 64
EDGES = [0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
MOST_MEMORY = 8 << 20  # bytes beside the mapped file, which has 30 kB

fuzz = settings(
    max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fuzzed.gguf"


def load(path: Path, raw: bytes) -> None:
    """Open, check and read everything."""
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with contextlib.suppress(RowspanError):
            checkpoint = open_checkpoint(path)
            for key in checkpoint.tensors:
                checkpoint.read(key).sum()
            ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_the_sound_file_is_sound(path: Path) -> None:
    path.write_bytes(SOUND)
    checkpoint = open_checkpoint(path)
    assert ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes).n_layers == 1


@fuzz
@given(flips=st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(path: Path, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(SOUND)
    for at, mask in flips:
        raw[at] ^= mask
    load(path, bytes(raw))


@fuzz
@given(at=st.integers(0, HEADER_BYTES - 8), value=st.sampled_from(EDGES), size=st.sampled_from([1, 2, 4, 8]))
def test_forged_lengths(path: Path, at: int, value: int, size: int) -> None:
    raw = (value % 256**size).to_bytes(size, "little")
    load(path, SOUND[:at] + raw + SOUND[at + size :])


@fuzz
@given(length=st.one_of(st.integers(0, HEADER_BYTES), st.integers(0, len(SOUND) - 33)))
def test_truncated(path: Path, length: int) -> None:
    path.write_bytes(SOUND[:length])
    with pytest.raises(RowspanError):
        open_checkpoint(path)


@fuzz
@given(at=st.integers(0, HEADER_BYTES), cut=st.integers(0, 64), put=st.binary(max_size=64))
def test_spliced(path: Path, at: int, cut: int, put: bytes) -> None:
    load(path, SOUND[:at] + put + SOUND[at + cut :])


@fuzz
@given(tail=st.binary(max_size=200))
def test_noise_after_the_magic(path: Path, tail: bytes) -> None:
    load(path, b"GGUF\3\0\0\0" + tail)


VALUES = st.one_of(
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(EDGES).filter(lambda value: value < 2**32),
    st.sampled_from(EDGES).map(np.uint64),
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.floats(width=32),
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.integers(0, 9), max_size=3).map(lambda values: np.array(values, np.int32)),
    st.none(),
)


@fuzz
@given(
    key=st.sampled_from(
        [
            *(key for key in METADATA if not key.startswith("tokenizer.")),
            *("general.alignment", "qwen3.rope.scaling.type", "qwen3.rope.scaling.factor", "qwen3.rope.scale_linear"),
            *("qwen3.attention.sliding_window", "qwen3.rope.scaling.original_context_length", "split.count"),
        ]
    ),
    value=VALUES,
)
def test_metadata_of_the_wrong_type(path: Path, key: str, value: Any) -> None:
    metadata = {name: old for name, old in (METADATA | {key: value}).items() if old is not None}
    load(path, gguf_bytes(metadata, TENSORS))
