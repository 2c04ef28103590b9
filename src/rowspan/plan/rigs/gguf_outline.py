"""Reads GGUF headers for planning: of any architecture and any tensor type, whether Rowspan can run it or not."""

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
from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.errors import CheckpointError, UnsupportedModelError, UsageError
from rowspan.model.families.registry import apart, spec_of
from rowspan.model.header import ModelHeader
from rowspan.model.spec import ModelSpec
from rowspan.plan.rigs.listed_tensors import ListedTensor, list_tensor
from rowspan.quant.scheme import GEOMETRIES, stored_bytes

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
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}


@dataclass(frozen=True)
class HeaderFacts:
    """Facts from a model's headers that planning needs. infos: how each tensor of `listed` is stored."""

    spec: ModelSpec
    listed: tuple[ListedTensor, ...]
    infos: tuple[TensorInfo, ...]
    scheme: str


def read_local(path: Path) -> HeaderFacts:
    """Read a file's header, and those of the model's other parts.

    Raises:
        CheckpointError, UnsupportedModelError: a header is damaged, or lacks what planning needs.
        UsageError: a file cannot be read.
    """
    return facts(path, local_headers(path))


def local_headers(path: Path) -> list[Header]:
    """The headers of a model's files, in order. Raises the same as `read_local`."""
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
    """Combine the headers of all parts, given in order. path: gives the model its name if the header has none."""
    metadata: dict[str, Any] = {}
    records: list[TensorRecord] = []
    for header in headers:
        metadata = {**header.metadata, **metadata}
        records += (one for record in header.tensors for one in apart(record, metadata))
    names = {record.name: record for record in records}
    embedding = names.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise damaged(path, "It has no token embedding, so it is no language model, or only a part of one.")
    listed = tuple(list_tensor(record.name, record.shape, metadata) for record in records)
    tied = "output.weight" not in names
    shapes = {tensor.key: tensor.shape for tensor in listed if tensor.key is not None}
    model = ModelHeader(metadata, embedding.shape[0], tied, shapes, title=path.stem, for_planning=True)
    _check_layers(path, model, listed)
    spec = _described(model)
    if embedding.shape[1] != spec.hidden_size:
        raise damaged(
            path, f"Its embedding has rows of {embedding.shape[1]} elements, its hidden size is {spec.hidden_size}."
        )
    infos = tuple(_info(path, record) for record in records)
    return HeaderFacts(spec, listed, infos, _scheme(metadata, infos))


def _described(header: ModelHeader) -> ModelSpec:
    try:
        return spec_of(header)
    except CheckpointError as error:
        raise CheckpointError(
            "The model's header is not enough to plan with.",
            why=error.why,
            fix="Fetch or convert the model again, or name a shape of the catalog: `rowspan plan --list`.",
        ) from None


def _info(path: Path, record: TensorRecord) -> TensorInfo:
    name = SCHEME_OF_TYPE.get(record.ggml_type)
    if name is None:
        raise UnsupportedModelError(
            f"The tensor {record.name[:80]} of {path.name} has a type of the unknown number {record.ggml_type}.",
            fix="Choose another quantization of this model, or a newer Rowspan.",
        )
    if record.shape[-1] % GEOMETRIES[name].block_size:
        raise damaged(path, f"Rows of {record.name[:80]} are no whole blocks of {name}.")
    return TensorInfo(record.shape, name, stored_bytes(name, math.prod(record.shape)))


def _check_layers(path: Path, header: ModelHeader, listed: Sequence[ListedTensor]) -> None:
    """Compare the number of layers, which a header may claim at will, with the tensors that are there."""
    held = {tensor.layer for tensor in listed} - {None}
    if len(held) != header.n_layers or held != set(range(header.n_layers)):
        raise damaged(path, f"{header.n_layers} layers are announced, tensors of {len(held)} are there.")


def _scheme(metadata: dict[str, Any], infos: Sequence[TensorInfo]) -> str:
    """The quantization's name as the file states it, or else the scheme that most of its bytes are in."""
    file_type = metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    weight: Counter[str] = Counter()
    for info in infos:
        weight[info.scheme] += info.nbytes
    return max(GEOMETRIES, key=lambda name: weight[name])
