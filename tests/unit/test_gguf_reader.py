"""The GGUF reader against files written by the tests' own writer, sound ones and others."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import RawTensor, gguf_bytes, gguf_string, gguf_value, tensor_info

from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey, tensor_key
from rowspan.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, UsageError
from rowspan.model.families.family import LAYER_TENSORS, MODEL_TENSORS
from rowspan.model.families.registry import key_of
from rowspan.model.open_checkpoint import open_checkpoint

F32, Q4_0, Q8_K, F64 = 0, 2, 15, 28
Q = TensorKey(Role.Q, 0)


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def header(*, metadata: bytes = b"", n_keys: int = 0, tensors: bytes = b"", n_tensors: int = 0) -> bytes:
    raw = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + metadata + tensors
    return raw + bytes(-len(raw) % 32)


def one_tensor(shape: tuple[int, ...], ggml_type: int = F32, offset: int = 0, data: int = 4096) -> bytes:
    return header(tensors=tensor_info("blk.0.attn_q.weight", shape, ggml_type, offset), n_tensors=1) + bytes(data)


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_of_every_type(tmp_path: Path, version: int) -> None:
    values: dict[str, Any] = {
        "text": "Größe",
        "yes": True,
        "no": False,
        "u8": np.uint8(200),
        "i8": np.int8(-100),
        "u16": np.uint16(60000),
        "i16": np.int16(-30000),
        "u32": np.uint32(4_000_000_000),
        "i32": np.int32(-2_000_000_000),
        "u64": np.uint64(2**64 - 1),
        "i64": np.int64(-(2**63)),
        "f32": np.float32(0.1),
        "f64": np.float64(0.1),
        "texts": ["", "a", "Ġthe"],
        "none": np.array([], np.int32),
    }
    arrays = {f"array {code}": np.arange(5).astype(code) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "?")}
    path = write(tmp_path / "m.gguf", gguf_bytes(values | arrays, [], version=version))
    metadata = open_checkpoint(path).metadata
    assert list(metadata) == [*values, *arrays]
    for key, value in values.items():
        expected = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, np.ndarray):
            assert metadata[key].dtype == value.dtype
            assert metadata[key].size == 0
        else:
            assert type(metadata[key]) is type(expected)
            assert metadata[key] == expected
    for key, array in arrays.items():
        assert metadata[key].dtype == array.dtype
        np.testing.assert_array_equal(metadata[key], array)


def test_bytes_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    metadata = gguf_string("key") + struct.pack("<I", 8) + gguf_string(b"a\xffb")
    path = write(tmp_path / "m.gguf", header(metadata=metadata, n_keys=1))
    assert open_checkpoint(path).metadata["key"] == "a\ufffdb"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("token_embd.weight", TensorKey(Role.EMBEDDING)),
        ("output_norm.weight", TensorKey(Role.FINAL_NORM)),
        ("output.weight", TensorKey(Role.HEAD)),
        ("rope_freqs.weight", TensorKey(Role.ROPE_FREQS)),
        ("blk.0.attn_norm.weight", TensorKey(Role.ATTN_NORM, 0)),
        ("blk.12.attn_q.bias", TensorKey(Role.Q, 12, "bias")),
        ("blk.12.attn_k_norm.weight", TensorKey(Role.K_NORM, 12)),
        ("blk.100.attn_output.weight", TensorKey(Role.O, 100)),
        ("blk.3.ffn_down.weight", TensorKey(Role.DOWN, 3)),
        ("blk.03.ffn_down.weight", None),  # two names must never mean the same tensor
        ("blk.3.ffn_down_exps.weight", None),
        ("blk.3.output.weight", None),
        ("ffn_down.weight", None),
        ("blk.3.ffn_down", None),
        ("blk.٣.ffn_down.weight", None),
        ("token_embd.weight\n", None),
    ],
)
def test_names(name: str, key: TensorKey | None) -> None:
    assert tensor_key(name, MODEL_TENSORS, LAYER_TENSORS) == key


def test_read_slices(tmp_path: Path) -> None:
    model = TinyModel(scheme="Q8_0", hidden_size=128, ffn_size=96, seed=3)
    checkpoint = open_checkpoint(model.write(tmp_path / "m.gguf"))
    raw = {tensor.name: tensor for tensor in model.tensors()}["blk.1.ffn_down.weight"]
    expected = np.frombuffer(raw.data, np.uint8).reshape(128, 3, 34)
    key = TensorKey(Role.DOWN, 1)
    info = checkpoint.tensors[key]
    assert (info.shape, info.scheme, info.nbytes) == ((128, 96), "Q8_0", 128 * 3 * 34)
    np.testing.assert_array_equal(checkpoint.read(key).blocks, expected.reshape(128, -1))
    stored = checkpoint.read(key, rows=slice(5, 70), columns=slice(32, 96))
    assert (stored.scheme, stored.rows, stored.columns) == ("Q8_0", 65, 64)
    part = stored.blocks
    np.testing.assert_array_equal(part, expected[5:70, 1:].reshape(65, -1))
    assert checkpoint.read(key, rows=slice(7, 7)).blocks.shape == (0, 102)
    assert not part.flags.owndata
    assert not part.flags.writeable
    for columns in (slice(16, 96), slice(0, 40), slice(0, 96, 2)):
        with pytest.raises(ValueError, match=r"block|step"):
            checkpoint.read(key, columns=columns)


def test_read_vector_elements(tmp_path: Path) -> None:
    model = TinyModel(architecture="qwen2")
    checkpoint = open_checkpoint(model.write(tmp_path / "m.gguf"))
    key = TensorKey(Role.K, 1, "bias")
    bias = checkpoint.read(key, columns=slice(8, 24)).blocks
    assert bias.shape == (1, 64)
    np.testing.assert_array_equal(bias.view("<f4")[0], model.weights()["blk.1.attn_k.bias"][8:24])


def test_what_was_read_outlives_close(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "m.gguf"))
    rows = checkpoint.read(TensorKey(Role.EMBEDDING)).blocks
    before = rows.copy()
    checkpoint.close()
    checkpoint.close()
    np.testing.assert_array_equal(rows, before)
    with pytest.raises(KeyError):
        checkpoint.read(TensorKey(Role.EMBEDDING))


def test_released_pages_leave_memory_and_come_back(tmp_path: Path) -> None:
    path = TinyModel(hidden_size=256, ffn_size=16384, scheme="F32").write(tmp_path / "m.gguf")
    checkpoint = GgufCheckpoint(path, key_of)
    key = TensorKey(Role.UP, 0)
    before = checkpoint.read(key).blocks
    content, resident = before.tobytes(), psutil.Process().memory_info().rss
    checkpoint.release(key)
    assert resident - psutil.Process().memory_info().rss > len(content) // 2
    assert before.tobytes() == content
    assert checkpoint.read(key).blocks.tobytes() == content


def test_alignment_from_metadata(tmp_path: Path) -> None:
    tensors = [RawTensor(f"blk.{i}.attn_norm.weight", (3,), F32, np.full(3, i, "<f4").tobytes()) for i in range(3)]
    for alignment in (4, 4096):
        raw = gguf_bytes({"general.alignment": alignment}, tensors, alignment=alignment)
        checkpoint = open_checkpoint(write(tmp_path / f"{alignment}.gguf", raw))
        for i in range(3):
            assert checkpoint.read(TensorKey(Role.ATTN_NORM, i)).blocks.view("<f4").tolist() == [[i, i, i]]


def test_unknown_tensors_are_kept_by_name(tmp_path: Path) -> None:
    tensors = [RawTensor("blk.0.ffn_gate_maybe.weight", (2, 2, 2), Q8_K, b"")]
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", gguf_bytes({}, tensors)))
    assert checkpoint.unknown_tensors == ["blk.0.ffn_gate_maybe.weight"]
    assert not checkpoint.tensors


def test_split_files_read_as_one(tmp_path: Path) -> None:
    model = TinyModel(scheme="Q4_0")
    whole = open_checkpoint(model.write(tmp_path / "whole.gguf"))
    paths = model.write_split(tmp_path, 3)
    for path in paths:  # any part stands for all of them
        checkpoint = open_checkpoint(path)
        assert checkpoint.paths == tuple(paths)
        assert checkpoint.file_size == sum(path.stat().st_size for path in paths)
        assert checkpoint.tensors == whole.tensors
        assert checkpoint.metadata["tokenizer.ggml.tokens"] == whole.metadata["tokenizer.ggml.tokens"]
        for key in whole.tensors:
            np.testing.assert_array_equal(checkpoint.read(key).blocks, whole.read(key).blocks)


def test_missing_part_is_named(tmp_path: Path) -> None:
    paths = TinyModel().write_split(tmp_path, 3)
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"tiny-00002-of-00003\.gguf is missing"):
        open_checkpoint(paths[2])


def test_renamed_part_is_refused(tmp_path: Path) -> None:
    paths = TinyModel().write_split(tmp_path, 2)
    alone = paths[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(CheckpointError, match="one of 2 files"):
        open_checkpoint(alone)


def test_swapped_parts_are_refused(tmp_path: Path) -> None:
    paths = TinyModel().write_split(tmp_path, 2)
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    with pytest.raises(CheckpointError, match="it is part 2"):
        open_checkpoint(paths[0])


def test_part_of_another_model_is_refused(tmp_path: Path) -> None:
    paths = TinyModel().write_split(tmp_path / "a", 2)
    others = TinyModel(n_layers=3).write_split(tmp_path / "b", 2)
    paths[1].write_bytes(others[1].read_bytes())
    with pytest.raises(CheckpointError, match=r"announced|twice"):
        open_checkpoint(paths[0])


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no file"):
        open_checkpoint(tmp_path / "absent.gguf")
    TinyModel().write(tmp_path / "inside.gguf")
    with pytest.raises(UsageError, match=r"folder.*inside\.gguf"):
        open_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="regular file"):
        open_checkpoint(Path("/dev/null"))
    with pytest.raises(CheckpointError, match="empty"):
        open_checkpoint(write(tmp_path / "empty.gguf", b""))


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", r"pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head>", r"web page.*/resolve/"),
        (b"\n<HTML>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b'{\n  "architectures": []}', "JSON"),
        (b"\x10\0\0\0\0\0\0\0{}", "safetensors"),
        (b'\x0a{\0\0\0\0\0\0{"__metadata__":{}}', "safetensors"),
        (b"PK\x03\x04" + bytes(20), "PyTorch"),
        (b"tjgg\x03\0\0\0", "2023"),
        (b"\x1f\x8b\x08\0", "compressed"),
        (bytes(4096), "zeros"),
        (b"\x93\xf1some later piece", "GGUF's four letters"),
    ],
)
def test_what_was_taken_for_a_model_file_is_named(tmp_path: Path, start: bytes, why: str) -> None:
    with pytest.raises(CheckpointError, match=rf"(?s)not a model file.*{why}"):
        open_checkpoint(write(tmp_path / "m.gguf", start))


def test_parts_joined_with_cat_are_recognized(tmp_path: Path) -> None:
    paths = TinyModel().write_split(tmp_path, 2)
    joined = write(tmp_path / "joined.gguf", b"".join(path.read_bytes() for path in paths))
    with pytest.raises(CheckpointError, match=r"2 files of a model, one behind the other.*gguf-split --merge"):
        open_checkpoint(joined)


@pytest.mark.parametrize(
    ("version", "message"),
    [(struct.pack(">I", 3), "big-endian"), (struct.pack("<I", 1), "version 1"), (struct.pack("<I", 4), "version 4")],
)
def test_versions_that_cannot_be_read(tmp_path: Path, version: bytes, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        open_checkpoint(write(tmp_path / "m.gguf", b"GGUF" + version + bytes(16)))


def test_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    for number, name in ((Q8_K, "Q8_K"), (F64, "F64"), (4, "number 4"), (2**32 - 1, "number 4294967295")):
        with pytest.raises(UnsupportedModelError, match=rf"blk\.0\.attn_q\.weight has the type {name}"):
            open_checkpoint(write(tmp_path / "m.gguf", one_tensor((256, 256), number)))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (one_tensor((32, 33)), "should end at byte"),
        (one_tensor((32, 32), offset=2**64 - 32), "should end at byte"),
        (one_tensor((2**32, 2**32)), "impossible shape"),
        (one_tensor((2**31, 2**31)), "should end at byte"),
        (one_tensor((0, 4)), "impossible shape"),
        (one_tensor(()), "0 dimensions"),
        (one_tensor((1,) * 5), "5 dimensions"),
        (one_tensor((2, 48), Q4_0), "48 elements"),
        (one_tensor((2, 32), offset=8), "not aligned"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 5), "truncated"),
        (b"GGUF\3\0", "truncated"),
        (header(metadata=struct.pack("<Q", 2**64 - 1), n_keys=1), "truncated"),
        (header(metadata=(gguf_string("a") + gguf_value(1)) * 2, n_keys=2), "'a' occurs twice"),
        (header(metadata=gguf_string("a") + struct.pack("<I", 77), n_keys=1), "unknown type 77"),
        (header(metadata=gguf_string("a") + struct.pack("<IIQ", 9, 9, 1), n_keys=1), "unknown type 9"),
        (header(metadata=gguf_string("a") + struct.pack("<IIQ", 9, 12, 2**61), n_keys=1), "announces"),
        (header(metadata=gguf_string("a") + struct.pack("<IIQ", 9, 8, 2**22), n_keys=1), "truncated"),
        (header(tensors=tensor_info("blk.0.attn_q.weight", (1,), F32, 0) * 2, n_tensors=2) + bytes(64), "twice"),
    ],
)
def test_contradictions(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write(tmp_path / "m.gguf", raw))


@pytest.mark.parametrize("value", [0, 48, np.int32(-32), "32", True, np.array([32], np.uint32)])
def test_alignment_must_be_a_power_of_two(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="power of two"):
        open_checkpoint(write(tmp_path / "m.gguf", gguf_bytes({"general.alignment": value}, [])))


@pytest.mark.parametrize("key", ["split.count", "split.no", "split.tensors.count"])
def test_split_keys_must_be_integers(tmp_path: Path, key: str) -> None:
    for value in ("1", 1.0, np.array([1, 1], np.uint32)):
        with pytest.raises(CheckpointError, match="no integer"):
            open_checkpoint(write(tmp_path / "m.gguf", gguf_bytes({key: value}, [])))


@pytest.mark.parametrize("item_type", [8, 0])
def test_giant_file_with_forged_array_costs_nothing(tmp_path: Path, item_type: int) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:  # a sparse gigabyte of zeros: as strings, 134 million empty ones
        file.write(header(metadata=gguf_string("a") + struct.pack("<IIQ", 9, item_type, 100_000_000), n_keys=1))
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="announces 100000000 elements"):
        open_checkpoint(path)
