"""No file may lead to a crash, a hang or a huge allocation: only to a model that runs, or to a RowspanError."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.child_pool import ChildPool
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import gguf_bytes
from kit.native_isas import NATIVE
from kit.single_rank import SingleRank

from rowspan.errors import RowspanError
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.scheduler.batch import Chunk

Load = Callable[[bytes], bool]
MODEL = TinyModel(architecture="qwen3", n_layers=1, hidden_size=32, ffn_size=32, scheme="Q4_0")
METADATA, TENSORS = MODEL.metadata(), MODEL.tensors()
SOUND = gguf_bytes(METADATA, TENSORS)
HEADER_BYTES = SOUND.rindex(b"output_norm.weight") + 64
EDGES = [0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
HALVES = [0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0xFBFF, 0x8000, 0x0001, 0xFFFF]
"""Bits of infinite, undefined, largest and smallest float16: scales of blocks, or the upper halves of float32."""
MOST_MEMORY = 8 << 20  # bytes beside the mapped file, which has 30 kB

fuzz = settings(
    max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def child() -> Iterator[ChildPool]:
    pool = ChildPool()
    yield pool
    pool.close()


@pytest.fixture
def load(tmp_path: Path, child: ChildPool) -> Callable[[bytes], bool]:
    """Open, check and read everything; run what is a model. Returns whether it is one."""

    def load(raw: bytes) -> bool:
        path = tmp_path / "fuzzed.gguf"
        path.write_bytes(raw)
        sound = opens(path)
        if sound and NATIVE:
            child.call(run_one_step, path)
        return sound

    return load


def opens(path: Path) -> bool:
    """Whether all of it can be read and makes a model."""
    sound = False
    tracemalloc.start()
    try:
        with contextlib.suppress(RowspanError):
            checkpoint = open_checkpoint(path)
            for key in checkpoint.tensors:
                checkpoint.read(key).blocks.sum()
            read_spec(checkpoint)
            sound = True
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    return sound


def run_one_step(path: Path) -> None:
    """A step of 17 tokens, which takes two blocks, on native kernels with both kinds of products. Its logits may be
    anything: the weights may be, too."""
    for int8, cache in ((False, "float32"), (True, "int16")):
        with contextlib.suppress(RowspanError):
            kernels = CpuKernels(NATIVE[0], 1, int8=int8)
            rank = SingleRank(path, n_blocks=2, block_size=16, cache=cache, kernels=kernels)
            tokens = (0, rank.spec.vocab_size - 1) * 8 + (0,)
            assert len(rank.step([Chunk(0, tokens, 0, (1, 0), True)])) == 17


def test_the_sound_file_is_sound(load: Load, tmp_path: Path) -> None:
    assert load(SOUND)
    checkpoint = open_checkpoint(tmp_path / "fuzzed.gguf")
    assert read_spec(checkpoint).n_layers == 1


@fuzz
@given(flips=st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(load: Load, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(SOUND)
    for at, mask in flips:
        raw[at] ^= mask
    load(bytes(raw))


@fuzz
@given(
    puts=st.lists(
        st.tuples(st.integers(HEADER_BYTES, len(SOUND) - 2), st.sampled_from(HALVES) | st.integers(0, 2**16 - 1)),
        min_size=1,
        max_size=40,
    )
)
def test_weights_of_any_bits(load: Load, puts: list[tuple[int, int]]) -> None:
    raw = bytearray(SOUND)
    for at, bits in puts:
        raw[at : at + 2] = bits.to_bytes(2, "little")
    assert load(bytes(raw))


@fuzz
@given(at=st.integers(0, HEADER_BYTES - 8), value=st.sampled_from(EDGES), size=st.sampled_from([1, 2, 4, 8]))
def test_forged_lengths(load: Load, at: int, value: int, size: int) -> None:
    raw = (value % 256**size).to_bytes(size, "little")
    load(SOUND[:at] + raw + SOUND[at + size :])


@fuzz
@given(length=st.one_of(st.integers(0, HEADER_BYTES), st.integers(0, len(SOUND) - 33)))
def test_truncated(tmp_path: Path, length: int) -> None:
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(SOUND[:length])
    with pytest.raises(RowspanError):
        open_checkpoint(path)


@fuzz
@given(at=st.integers(0, HEADER_BYTES), cut=st.integers(0, 64), put=st.binary(max_size=64))
def test_spliced(load: Load, at: int, cut: int, put: bytes) -> None:
    load(SOUND[:at] + put + SOUND[at + cut :])


@fuzz
@given(tail=st.binary(max_size=200))
def test_noise_after_the_magic(load: Load, tail: bytes) -> None:
    load(b"GGUF\3\0\0\0" + tail)


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
def test_metadata_of_the_wrong_type(load: Load, key: str, value: Any) -> None:
    metadata = {name: old for name, old in (METADATA | {key: value}).items() if old is not None}
    load(gguf_bytes(metadata, TENSORS))
