"""GGUF headers, read for planning: of any architecture and any tensor type, whether Rowspan can run it or not."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.gguf import part_paths
from rowspan.checkpoint.gguf_header import Header, TensorRecord, damaged, read_header
from rowspan.checkpoint.gguf_layout import ListedTensor, list_tensor
from rowspan.checkpoint.shape import Shape, shape_from_metadata
from rowspan.errors import UnsupportedModelError, UsageError
from rowspan.quant.scheme import GEOMETRIES, SCHEME_OF_GGML_TYPE, UNREAD_SCHEMES, stored_bytes

# general.file_type, as llama.cpp numbers it: https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    25: "IQ4_NL",
    30: "IQ4_XS",
    32: "BF16",
}


@dataclass(frozen=True)
class HeaderFacts:
    """What planning needs of a model's headers. infos: how each of `listed` is stored."""

    shape: Shape
    listed: tuple[ListedTensor, ...]
    infos: tuple[TensorInfo, ...]
    scheme: str


def read_local(path: Path) -> HeaderFacts:
    """From a file, and with it the other parts of the model.

    Raises:
        CheckpointError, UnsupportedModelError: a header is damaged, or lacks what planning needs.
        UsageError: a file cannot be read.
    """
    return facts(path, local_headers(path))


def local_headers(path: Path) -> list[Header]:
    """The headers of a model's files, in order. Raises: as `read_local`."""
    headers = []
    for part in part_paths(path):
        try:
            with part.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                headers.append(read_header(part, data))
        except ValueError:
            raise damaged(part, "It is empty.") from None
        except OSError as error:
            raise UsageError(f"The model file {part} cannot be opened.", why=f"{error.strerror}.") from error
    return headers


def facts(path: Path, headers: Sequence[Header]) -> HeaderFacts:
    """From the headers of all parts, in order. path: to name the model by, where it has no name."""
    metadata: dict[str, Any] = {}
    records: list[TensorRecord] = []
    for header in headers:
        metadata = {**header.metadata, **metadata}
        records += header.tensors
    names = {record.name: record for record in records}
    embedding = names.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise damaged(path, "It has no token embedding, so it is no language model, or only a part of one.")
    shape = shape_from_metadata(metadata, embedding.shape[0], tied="output.weight" not in names, name=path.stem)
    if embedding.shape[1] != shape.hidden:
        raise damaged(
            path, f"Its embedding has rows of {embedding.shape[1]} elements, its hidden size is {shape.hidden}."
        )
    listed = tuple(list_tensor(record.name, record.shape) for record in records)
    _check_layers(path, shape, listed)
    infos = tuple(_info(path, record) for record in records)
    return HeaderFacts(shape, listed, tuple(map(_as_listed, infos, listed)), _scheme(metadata, infos))


def _info(path: Path, record: TensorRecord) -> TensorInfo:
    known = SCHEME_OF_GGML_TYPE.get(record.ggml_type) or UNREAD_SCHEMES.get(record.ggml_type)
    if known is None:
        raise UnsupportedModelError(
            f"The tensor {record.name[:80]} of {path.name} has a type of the unknown number {record.ggml_type}.",
            fix="Choose another quantization of this model, or a newer Rowspan.",
        )
    if record.shape[-1] % known.block_size:
        raise damaged(path, f"Rows of {record.name[:80]} are no whole blocks of {known.name}.")
    return TensorInfo(record.shape, known.name, stored_bytes(known.name, math.prod(record.shape)))


def _as_listed(info: TensorInfo, tensor: ListedTensor) -> TensorInfo:
    return info if info.shape == tensor.shape else TensorInfo(tensor.shape, info.scheme, info.nbytes)


def _check_layers(path: Path, shape: Shape, listed: Sequence[ListedTensor]) -> None:
    """A header may claim any number of layers: compare with the tensors that are there."""
    held = {tensor.layer for tensor in listed} - {None}
    if len(held) != shape.layers or held != set(range(shape.layers)):
        raise damaged(path, f"{shape.layers} layers are announced, tensors of {len(held)} are there.")


def _scheme(metadata: dict[str, Any], infos: Sequence[TensorInfo]) -> str:
    """The quantization's name as the file gives it, else what most of its bytes are in."""
    file_type = metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    weight: Counter[str] = Counter()
    for info in infos:
        weight[info.scheme] += info.nbytes
    return max(GEOMETRIES, key=lambda name: weight[name])
