"""Planning from a header alone: of a file, and of one on a server, of which no more than the header is fetched."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import RawTensor, gguf_bytes, gguf_string, gguf_value, padded, tensor_info
from kit.sparse_server import SparseFile, sparse_site

from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.cli.plan.outline_of import outline_of
from rowspan.errors import (
    CheckpointError,
    DownloadError,
    ModelNotFoundError,
    RowspanError,
    UnsupportedModelError,
    UsageError,
)
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.plan.rigs.gguf_outline import FILE_TYPES, read_local
from rowspan.plan.rigs.model_shapes import find_model
from rowspan.plan.rigs.outline import Outline, outline, outline_of_spec
from rowspan.quant.scheme import GEOMETRIES, UNREAD_SCHEMES

TYPE_OF_SCHEME = {name: number for number, name in SCHEME_OF_TYPE.items()}
MIB = 1 << 20


def big_header(name: str = "llama-3-70b", scheme: str = "Q8_0", vocabulary: int = 128256) -> tuple[bytes, int]:
    """The header that a converter would write of a known shape, and the whole file's size."""
    known = find_model(name)
    assert known is not None
    model = outline_of_spec(known.spec, scheme)
    keys = {
        **known.header.metadata,
        "general.name": "Big",
        "general.file_type": next(number for number, text in FILE_TYPES.items() if text == scheme),
        "tokenizer.ggml.tokens": [f"token number {index}" for index in range(vocabulary)],
    }
    infos, offset = [], 0
    for tensor in model.listed:
        info = model.tensors.get(tensor.key) if tensor.key else None
        type_name = info.scheme if info else "F32"
        geometry = GEOMETRIES[type_name]
        infos.append(tensor_info(tensor.name, tensor.shape, TYPE_OF_SCHEME[type_name], offset))
        size = tensor.elements // geometry.block_size * geometry.block_bytes
        offset += -(-size // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys))
    head += b"".join(gguf_string(key) + gguf_value(value) for key, value in keys.items()) + b"".join(infos)
    header = padded(head, 32)
    return header, len(header) + offset


def alike(found: Outline, known: Outline) -> bool:
    return (found.tensors, found.rest, found.spec.layers, found.file_bytes, found.scheme) == (
        known.tensors,
        known.rest,
        known.spec.layers,
        known.file_bytes,
        known.scheme,
    )


@pytest.mark.parametrize(
    "model",
    [
        TinyModel(scheme="Q8_0", n_layers=3, tied=False),
        TinyModel(architecture="qwen2", scheme="Q4_0", rope_freqs=True),
        TinyModel(architecture="qwen3", scheme="F16", schemes={"ffn_down": "Q8_0"}),
    ],
)
def test_a_file_is_planned_as_it_is_loaded(tmp_path: Path, model: TinyModel) -> None:
    path = model.write(tmp_path / "m.gguf")
    facts, checkpoint = read_local(path), open_checkpoint(path)
    found = outline(facts.spec, facts.listed, facts.infos, facts.scheme)
    assert dict(found.tensors) == {key: info for key, info in checkpoint.tensors.items() if key in found.tensors}
    assert set(checkpoint.tensors) - set(found.tensors) <= {
        key for key in checkpoint.tensors if key.role == "rope_freqs"
    }
    assert found.file_bytes == sum(info.nbytes for info in checkpoint.tensors.values())


def test_file_types_are_named_as_the_gguf_package_names_them() -> None:
    theirs = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    del theirs[gguf.LlamaFileType.GUESSED.value]  # which no file states
    assert theirs == FILE_TYPES


def test_all_parts_of_a_split_model_count(tmp_path: Path) -> None:
    model = TinyModel(n_layers=4)
    parts = model.write_split(tmp_path / "split", 3)
    whole = model.write(tmp_path / "whole.gguf")
    assert alike(outline_of(str(parts[1])), outline_of(str(whole)))
    parts[2].unlink()
    with pytest.raises(CheckpointError, match="missing"):
        outline_of(str(parts[0]))


@pytest.mark.parametrize(
    ("name", "scheme"), [("llama-3-70b", "Q8_0"), ("llama-3-70b", "Q4_K_M"), ("mixtral-8x7b", "Q8_0")]
)
def test_a_remote_model_costs_its_header(name: str, scheme: str) -> None:
    header, size = big_header(name, scheme)
    known = find_model(name)
    assert known is not None
    assert size > 25 << 30
    with sparse_site({"/big.gguf": SparseFile(header, size)}) as site:
        found = outline_of(f"{site.url}/big.gguf")
        assert site.sent < max(4 * len(header), 2 * MIB)
    assert alike(found, outline_of_spec(known.spec, scheme))
    assert found.label.startswith("Big")


def test_parts_on_a_server_are_found_by_their_names() -> None:
    header, size = big_header("llama-3-8b", vocabulary=1000)
    rest = gguf_bytes({}, [RawTensor("blk.0.extra.weight", (32,), 0, bytes(128))])
    files = {"/m-00001-of-00002.gguf": SparseFile(header, size), "/m-00002-of-00002.gguf": SparseFile(rest, len(rest))}
    with sparse_site(files) as site:
        assert outline_of(f"{site.url}/m-00002-of-00002.gguf").rest[0].whole == 128


def test_a_configuration_on_a_server(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    text = json.dumps(config).encode()
    (tmp_path / "config.json").write_bytes(text)
    known = outline_of("llama-3-8b:q4_k_m")
    with sparse_site({"/some/config.json": SparseFile(text, len(text))}) as site:
        assert outline_of(f"{site.url}/some/config.json").tensors == known.tensors
    assert outline_of(str(tmp_path)).tensors == known.tensors
    assert outline_of(str(tmp_path / "config.json")).tensors == known.tensors


def test_a_server_that_sends_no_parts_of_files() -> None:
    header, size = big_header("llama-3-8b", vocabulary=500)
    long, long_size = big_header("llama-3-8b")
    with sparse_site({"/short.gguf": SparseFile(header, size), "/long.gguf": SparseFile(long, long_size)}) as site:
        site.ranges = False
        assert outline_of(f"{site.url}/short.gguf").spec.n_layers == 32
        with pytest.raises(DownloadError, match="in parts"):
            outline_of(f"{site.url}/long.gguf")
        assert site.sent < 64 * MIB


@pytest.mark.parametrize(
    ("start", "size", "error"),
    [
        (b"", 0, CheckpointError),
        (b"<html>no such model</html>", 26, CheckpointError),
        (b"GGUF", 4, CheckpointError),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), 1 << 30, RowspanError),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), 1 << 30, UnsupportedModelError),
        (big_header("llama-3-8b", vocabulary=10)[0][:5000], 5000, CheckpointError),
    ],
)
def test_a_broken_header_on_a_server(start: bytes, size: int, error: type[RowspanError]) -> None:
    with sparse_site({"/m.gguf": SparseFile(start, size)}) as site:
        with pytest.raises(error) as refusal:
            outline_of(f"{site.url}/m.gguf")
        assert refusal.value.fix
        assert site.sent < 200 * MIB


def test_addresses_without_a_model() -> None:
    with sparse_site({}) as site, pytest.raises(ModelNotFoundError):
        outline_of(f"{site.url}/m.gguf")
    with pytest.raises(DownloadError):
        outline_of(f"{site.url}/m.gguf")  # nobody listens any more


def test_a_header_that_contradicts_itself(tmp_path: Path) -> None:
    for key, value, says in (
        ("llama.block_count", 7, "7 layers are announced"),
        ("llama.embedding_length", 96, "hidden size is 96"),
        ("llama.attention.head_count", 0, "head_count is 0"),
        ("llama.block_count", None, "block_count is missing"),
        ("general.architecture", None, "architecture"),
        ("llama.attention.head_count", "many", "head_count is 'many'"),
    ):
        path = TinyModel(extra={key: value}).write(tmp_path / "m.gguf")
        with pytest.raises(CheckpointError) as refusal:
            outline_of(str(path))
        assert says in refusal.value.why


@settings(max_examples=40)
@given(data=st.data())
def test_any_damage_is_refused_or_planned_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(TinyModel(n_layers=1, vocab_size=None).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 6000) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(bytes(raw))
    with contextlib.suppress(RowspanError):
        assert outline_of(str(path)).file_bytes > 0


def test_types_that_are_not_read_have_ggml_s_sizes() -> None:
    gguf = pytest.importorskip("gguf", reason="gguf: not installed")
    for scheme in UNREAD_SCHEMES.values():
        known = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}.get(scheme.name)
        if known and scheme.name != "Q8_1":  # never in files; ggml's block is 36 bytes, gguf's table says 40
            assert (scheme.block_size, scheme.block_bytes) == known


@pytest.mark.parametrize("name", ["./no.gguf", "no/such/config.json", "~/nothing.gguf"])
def test_a_path_without_a_file(name: str) -> None:
    with pytest.raises(UsageError, match="no file"):
        outline_of(name)
