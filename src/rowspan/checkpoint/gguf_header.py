"""Reads the header of one GGUF file: its metadata, and where its tensors lie. Versions 2 and 3, little-endian.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A header is not trusted: every length, count and
offset is compared with the file's size before anything is allocated or looped over.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowspan.checkpoint.not_gguf import ENOUGH_BYTES, mistaken
from rowspan.errors import CheckpointError, UnsupportedModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes; general.alignment overrides it
MAX_DIMENSIONS = 4

# Far above what any model needs (a vocabulary of 256k tokens with its merges: 20 MB, 1M items), low enough that a
# forged header costs neither minutes nor gigabytes.
MAX_HEADER_BYTES = 1 << 27
MAX_ENTRIES = 1 << 16  # metadata keys, and tensors
MAX_ITEMS = 1 << 22  # elements of all metadata arrays together

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
STRING, ARRAY = 8, 9  # the value types that are not numbers
NUMBERS: Mapping[int, np.dtype[Any]] = {
    value_type: np.dtype(code)
    for value_type, code in {
        0: "<u1",
        1: "<i1",
        2: "<u2",
        3: "<i2",
        4: "<u4",
        5: "<i4",
        6: "<f4",
        7: "?",
        10: "<u8",
        11: "<i8",
        12: "<f8",
    }.items()
}


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as the header announces it; only its shape has been checked.

    shape: in Rowspan's order, the reverse of GGUF's.
    start: the tensor's first byte within the file.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    start: int


@dataclass(frozen=True, slots=True)
class Header:
    """The contents of a GGUF file's header, which takes the first `nbytes` of the file."""

    metadata: dict[str, Any]
    tensors: list[TensorRecord]
    nbytes: int


def read_header(path: Path, data: mmap.mmap | bytes) -> Header:
    """Read the header of a GGUF file. data: the file, or at least its header.

    Metadata become plain values: str, int, float, bool; arrays of numbers numpy arrays, arrays of strings lists of str.
    Bytes that are not UTF-8 become U+FFFD: a name or a template with a few unreadable characters still serves.

    Raises:
        UnsupportedModelError: not this version, byte order or value type of GGUF.
        CheckpointError: not a GGUF file at all, truncated, or contradicting itself.
    """
    return _Reader(path, data).header()


class TruncatedHeaderError(CheckpointError):
    """The available bytes end within the header. A file on disk is damaged then; of a download more must be fetched."""


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a damaged or malformed file."""
    return CheckpointError(f"The model file {path.name} is damaged.", why=why, fix="Fetch it again.")


class _Reader:
    """Reads the header from front to back; never beyond its end, nor beyond the limits above."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self._path = path
        self._data = data
        self._end = min(len(data), MAX_HEADER_BYTES)
        self._position = 0
        self._items_left = MAX_ITEMS

    def header(self) -> Header:
        self._check_magic_and_version()
        n_tensors, n_keys = self._unpack(U64), self._unpack(U64)
        for count, things in ((n_keys, "metadata keys"), (n_tensors, "tensors")):
            if count > MAX_ENTRIES:
                raise damaged(self._path, f"Its header announces {count} {things}.")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._string()
            if key in metadata:
                raise damaged(self._path, f"The metadata key {key[:80]!r} occurs twice.")
            metadata[key] = self._value(key, self._unpack(U32))
        records = [self._tensor() for _ in range(n_tensors)]
        placed = self._placed(records, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
        return Header(metadata, placed, self._position)

    def _check_magic_and_version(self) -> None:
        if self._data[: len(MAGIC)] != MAGIC:
            why, fix = mistaken(self._data[:ENOUGH_BYTES])
            raise CheckpointError(f"{self._path.name} is not a model file Rowspan can read.", why=why, fix=fix)
        self._skip(len(MAGIC))
        version = self._unpack(U32)
        if version in VERSIONS:
            return
        if version & 0xFFFF == 0:
            why, fix = "It is big-endian.", "Fetch or convert a little-endian one."
        else:
            why, fix = f"It has GGUF version {version}; 2 and 3 are known.", "Fetch or convert a current one."
        raise UnsupportedModelError(f"The model file {self._path.name} cannot be read.", why=why, fix=fix)

    def _skip(self, n_bytes: int) -> int:
        """Skip bytes that must exist, and return where they begin."""
        start = self._position
        if n_bytes > self._end - start:
            if self._end < len(self._data):
                raise damaged(self._path, f"Its header is longer than {MAX_HEADER_BYTES >> 20} MiB.")
            raise TruncatedHeaderError(
                f"The model file {self._path.name} is damaged.",
                why=f"It ends within its header, {self._end} bytes long: truncated or corrupt.",
                fix="Fetch it again.",
            )
        self._position = start + n_bytes
        return start

    def _unpack(self, form: struct.Struct) -> int:
        return int(form.unpack_from(self._data, self._skip(form.size))[0])

    def _string(self) -> str:
        start = self._skip(self._unpack(U64))
        return self._data[start : self._position].decode("utf-8", "replace")

    def _value(self, key: str, value_type: int) -> Any:
        if value_type == STRING:
            return self._string()
        if value_type == ARRAY:
            return self._array(key, self._unpack(U32), self._unpack(U64))
        return self._numbers(key, value_type, 1)[0].item()

    def _array(self, key: str, item_type: int, count: int) -> list[str] | np.ndarray:
        if count > self._items_left:
            raise damaged(self._path, f"The metadata key {key[:80]!r} announces {count} elements.")
        self._items_left -= count
        return self._strings(count) if item_type == STRING else self._numbers(key, item_type, count)

    def _numbers(self, key: str, item_type: int, count: int) -> np.ndarray:
        dtype = NUMBERS.get(item_type)
        if dtype is None:
            raise damaged(self._path, f"The metadata key {key[:80]!r} has values of the unknown type {item_type}.")
        start = self._skip(count * dtype.itemsize)
        values = np.frombuffer(self._data, np.uint8 if dtype == np.bool_ else dtype, count, start)
        return values.astype(dtype)  # a copy: metadata must not keep the file mapped

    def _strings(self, count: int) -> list[str]:
        """Read many strings as `_string` does, but with its code inlined, since vocabularies have hundreds of
        thousands.
        """
        data, end, unpack = self._data, self._end, U64.unpack_from
        strings: list[str] = []
        position = self._position
        for _ in range(count):
            start = position + U64.size
            if start > end:
                break
            position = start + unpack(data, position)[0]
            if position > end:
                break
            strings.append(data[start:position].decode("utf-8", "replace"))
        if len(strings) < count:
            self._skip(end + 1)  # raises
        self._position = position
        return strings

    def _tensor(self) -> TensorRecord:
        name = self._string()
        n_dimensions = self._unpack(U32)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise damaged(self._path, f"The tensor {name[:80]!r} has {n_dimensions} dimensions.")
        shape = tuple(reversed([self._unpack(U64) for _ in range(n_dimensions)]))
        if not 0 < math.prod(shape) < 1 << 63:
            raise damaged(self._path, f"The tensor {name[:80]!r} has the impossible shape {shape}.")
        return TensorRecord(name, shape, ggml_type=self._unpack(U32), start=self._unpack(U64))

    def _placed(self, records: list[TensorRecord], alignment: Any) -> list[TensorRecord]:
        """Convert offsets, which count from the end of the header rounded up, into positions within the file."""
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment.bit_count() != 1 or alignment < 0:
            raise damaged(self._path, f"Its alignment is {str(alignment)[:40]}, not a power of two.")
        base = -(-self._position // alignment) * alignment
        for record in records:
            if record.start % alignment:
                raise damaged(self._path, f"The tensor {record.name[:80]!r} is not aligned to {alignment} bytes.")
        return [TensorRecord(record.name, record.shape, record.ggml_type, base + record.start) for record in records]
