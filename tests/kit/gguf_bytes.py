"""Writes GGUF files byte by byte, sound ones and others. Independent of Rowspan's reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STRING, ARRAY = 8, 9
SCALARS: Mapping[type, tuple[int, str]] = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
ARRAY_TYPES: Mapping[str, int] = {
    "uint8": 0,
    "int8": 1,
    "uint16": 2,
    "int16": 3,
    "uint32": 4,
    "int32": 5,
    "float32": 6,
    "bool": 7,
    "uint64": 10,
    "int64": 11,
    "float64": 12,
}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it is stored. shape: (outputs, inputs), the reverse of the file's order."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    data: bytes


def gguf_bytes(
    metadata: Mapping[str, Any], tensors: Sequence[RawTensor], *, version: int = 3, alignment: int = 32
) -> bytes:
    """A whole file.

    Values of metadata: str, bool, int (as uint32), float (as float32), numpy scalars (as their own type), numpy arrays,
    sequences of str. Write general.alignment yourself, where it is not 32.
    """
    head = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [gguf_string(key), gguf_value(value)]
    blobs: list[bytes] = []
    offset = 0
    for tensor in tensors:
        head.append(tensor_info(tensor.name, tensor.shape, tensor.ggml_type, offset))
        blobs.append(padded(tensor.data, alignment))
        offset += len(blobs[-1])
    return padded(b"".join(head), alignment) + b"".join(blobs)


def gguf_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    """The value's type, and the value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + gguf_string(value)
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", ARRAY, ARRAY_TYPES[value.dtype.name], value.size) + value.tobytes()
    if isinstance(value, np.generic):
        return struct.pack("<I", ARRAY_TYPES[value.dtype.name]) + value.tobytes()
    if isinstance(value, Sequence):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(gguf_string(text) for text in value)
    value_type, form = SCALARS[type(value)]
    return struct.pack("<I", value_type) + struct.pack(form, value)


def tensor_info(name: str, shape: Sequence[int], ggml_type: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return gguf_string(name) + dimensions + struct.pack("<IQ", ggml_type, offset)


def padded(raw: bytes, alignment: int) -> bytes:
    return raw + bytes(-len(raw) % alignment)
