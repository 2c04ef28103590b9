"""Writes a GGUF file: for models that come in another format, and are converted as they are fetched. No torch.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Value = str | bool | int | float | Sequence[str] | Sequence[int]
VERSION, ALIGNMENT = 3, 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of values
F32 = 0  # type of tensors


class Float32Tensor(NamedTuple):
    """shape: outermost first, the reverse of the file's order. data: its bytes, in the memory's order."""

    name: str
    shape: Sequence[int]
    data: bytes | memoryview


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Float32Tensor]) -> None:
    """Write a file. Integers become uint32, those of arrays int32, floats float32."""
    head = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        sizes = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        head += [_string(tensor.name), sizes, struct.pack("<IQ", F32, offset)]
        offset += len(tensor.data) + -len(tensor.data) % ALIGNMENT
    with path.open("wb") as file:
        for part in (b"".join(head), *(tensor.data for tensor in tensors)):
            file.write(part)
            file.write(bytes(-len(part) % ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    """A value behind its type."""
    match value:
        case str():
            return struct.pack("<I", STRING) + _string(value)
        case bool():
            return struct.pack("<I?", BOOL, value)
        case int():
            return struct.pack("<II", UINT32, value)
        case float():
            return struct.pack("<If", FLOAT32, value)
    texts = [one for one in value if isinstance(one, str)]
    if len(texts) == len(value):
        return struct.pack("<IIQ", ARRAY, STRING, len(texts)) + b"".join(map(_string, texts))
    numbers = [one for one in value if isinstance(one, int)]
    return struct.pack("<IIQ", ARRAY, INT32, len(numbers)) + struct.pack(f"<{len(numbers)}i", *numbers)
