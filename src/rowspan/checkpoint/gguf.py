"""GGUF model files, of one part or several, mapped into memory."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.gguf_header import DEFAULT_ALIGNMENT, MAGIC, Header, TensorRecord, damaged, read_header
from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.checkpoint.tensor_names import TensorKey
from rowspan.errors import CheckpointError, UnsupportedModelError, UsageError
from rowspan.quant.scheme import GEOMETRIES, SCHEMES, VECTOR_SCHEMES, Geometry
from rowspan.quant.stored import StoredMatrix

# With a page that is accessed, Linux maps cached pages around it, 64 KiB or a large folio, among them pages of the
# tensor before, which were released already. For 270 tensors that added up to 10 to 20 MB, depending on the page cache.
MAPPED_AROUND = 2 << 20
# Bytes that Linux reads ahead at a time by default. If one call advises a longer stretch, Linux silently drops the
# rest: of 268 MB, with a window of 8 MiB, 8.4 MB were read (Linux 6.18; counted by mincore).
READ_AHEAD = 128 << 10

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


KeyOf = Callable[[str, Mapping[str, Any]], TensorKey | None]
"""Finds the key of a tensor from its name and the model's metadata; None: the model's family has no such tensor."""

Apart = Callable[[TensorRecord, Mapping[str, Any]], Sequence[TensorRecord]]
"""Takes a file's tensor apart where it holds several of the model's, one below the other; none: it is left out."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the mapping of a part: at the bytes from `start` on."""

    data: mmap.mmap
    start: int


class GgufCheckpoint:
    """A model in one or several GGUF files; see `Checkpoint`.

    paths: the files, in the order of their numbers.
    header_bytes: the size of each file's header.
    file_size: bytes of all files.
    unknown_tensors: names of tensors that the model's family does not have; these are neither checked nor readable.
    """

    def __init__(self, path: Path, key_of: KeyOf, apart: Apart = lambda record, metadata: (record,)) -> None:
        """Open a file, together with the other parts if its name says that there are some.

        Raises:
            CheckpointError: a file is damaged, or parts are missing or do not belong together.
            UnsupportedModelError: Rowspan cannot read this version of GGUF, or a tensor's type.
            UsageError: this user may not read a file.
        """
        self.paths = part_paths(path)
        self.header_bytes: list[int] = []
        self.file_size = 0
        self.unknown_tensors: list[str] = []
        self._metadata: dict[str, Any] = {}
        self._tensors: dict[TensorKey, TensorInfo] = {}
        self._places: dict[TensorKey, _Place] = {}
        names: set[str] = set()
        for number, part in enumerate(self.paths):
            data = _map(part)
            header = read_header(part, data)
            self._check_part(part, number, header, data)
            self.header_bytes.append(header.nbytes)
            self.file_size += len(data)
            self._metadata = {**header.metadata, **self._metadata}  # the first part says most, and has the last word
            for record in header.tensors:
                if record.name in names:
                    raise damaged(part, f"The tensor {record.name[:80]!r} occurs twice.")
                names.add(record.name)
                for one in apart(record, self._metadata):
                    self._add(part, data, one, key_of(one.name, self._metadata))
        announced = _integer(path, self._metadata, "split.tensors.count", len(names))
        if announced != len(names):
            raise damaged(path, f"{announced} tensors are announced, {len(names)} are there.")
        self._shapes = {key: info.shape for key, info in self._tensors.items()}

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._metadata

    @property
    def tensors(self) -> Mapping[TensorKey, TensorInfo]:
        return self._tensors

    @property
    def shapes(self) -> Mapping[TensorKey, tuple[int, ...]]:
        return self._shapes

    def read(self, key: TensorKey, rows: slice = slice(None), columns: slice = slice(None)) -> StoredMatrix:
        """See `Checkpoint.read`. Always blocks, a view of the mapped file, read-only.

        Raises:
            KeyError: no such tensor (or the checkpoint is closed).
            ValueError: a slice with a step, or columns that do not fall on block borders.
        """
        place, info = self._places[key], self._tensors[key]
        scheme = GEOMETRIES[info.scheme]
        *outer, width = info.shape
        height = math.prod(outer)
        first_row, last_row = _bounds(rows, height)
        first_column, last_column = _bounds(columns, width)
        if first_column % scheme.block_size or last_column % scheme.block_size:
            raise ValueError(f"columns {first_column}:{last_column} cut through blocks of {scheme.block_size} elements")
        blocks = np.frombuffer(place.data, np.uint8, info.nbytes, place.start).reshape(height, -1)
        cut = blocks[first_row:last_row, scheme.row_bytes(first_column) : scheme.row_bytes(last_column)]
        return StoredMatrix.of_blocks(scheme.name, cut)

    def prefetch(self, key: TensorKey) -> None:
        data, start, end = self._pages(key)
        for at in range(start, end, READ_AHEAD):
            data.madvise(mmap.MADV_WILLNEED, at, min(READ_AHEAD, end - at))

    def release(self, key: TensorKey) -> None:
        data, start, end = self._pages(key)
        if end > start:
            start = max(0, start - MAPPED_AROUND)
            data.madvise(mmap.MADV_DONTNEED, start, end - start)

    def close(self) -> None:
        """Release the files. Arrays that `read` returned stay valid; the mapping ends with the last of them."""
        self._places.clear()

    def _pages(self, key: TensorKey) -> tuple[mmap.mmap, int, int]:
        """The mapping of a part, and start and end of the tensor's pages in it."""
        place, nbytes = self._places[key], self._tensors[key].nbytes
        start = place.start // mmap.PAGESIZE * mmap.PAGESIZE
        return place.data, start, place.start + nbytes if nbytes else start

    def _check_part(self, part: Path, number: int, header: Header, data: mmap.mmap) -> None:
        count = _integer(part, header.metadata, "split.count", 0) or len(self.paths)  # tools that do not split write 0
        if count != len(self.paths) and _is_joined(header, data):
            raise CheckpointError(
                f"{part.name} is {count} files of a model, one behind the other.",
                why="Each has a header of its own, so they cannot be joined with `cat`.",
                fix="Put them into one folder under their original names, or join them with llama-gguf-split --merge.",
            )
        if count != len(self.paths):
            raise CheckpointError(
                f"{part.name} is one of {count} files of a model, but its name does not say so.",
                why="The parts are found by names of the form NAME-00001-of-00003.gguf.",
                fix="Put all parts into one folder under their original names.",
            )
        claimed = _integer(part, header.metadata, "split.no", number)
        if claimed != number:
            raise damaged(part, f"It says that it is part {claimed + 1}.")

    def _add(self, part: Path, data: mmap.mmap, record: TensorRecord, key: TensorKey | None) -> None:
        if key is None:
            self.unknown_tensors.append(record.name)
            return
        scheme = _scheme_of(record)
        if record.shape[-1] % scheme.block_size:
            raise damaged(
                part,
                f"Rows of {record.name} have {record.shape[-1]} elements, {scheme.name} needs {scheme.block_size}s.",
            )
        nbytes = _nbytes(record)
        if record.start + nbytes > len(data):
            end = record.start + nbytes
            raise damaged(
                part, f"The tensor {record.name} should end at byte {end}, the file is cut off at {len(data)}."
            )
        self._tensors[key] = TensorInfo(record.shape, scheme.name, nbytes)
        self._places[key] = _Place(data, record.start)


def part_paths(path: Path) -> tuple[Path, ...]:
    """All files of the model that a file belongs to, judged by its name.

    Raises:
        CheckpointError: a part is missing; the error names it.
    """
    match = PART_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise CheckpointError(
            f"The name {path.name} is not possible.",
            why="Parts are numbered from 00001 on.",
            fix="Put all parts into one folder under their original names.",
        )
    parts: list[Path] = []
    for number in range(1, count + 1):
        part = path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise CheckpointError(
                f"The model's file {part.name} is missing.",
                why=f"{path.name} is one of {count} parts.",
                fix=f"Fetch it into {path.parent}.",
            )
        parts.append(part)
    return tuple(parts)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # mmap raises this for an empty file
        raise damaged(path, "It is empty.") from None
    except OSError as error:
        raise UsageError(f"The model file {path} cannot be opened.", why=f"{error.strerror}.") from error


def _integer(part: Path, metadata: Mapping[str, Any], key: str, default: int) -> int:
    value = metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise damaged(part, f"Its {key} is no integer.")
    return value


def _scheme_of(record: TensorRecord) -> Geometry:
    name = SCHEME_OF_TYPE.get(record.ggml_type, f"number {record.ggml_type}")
    if len(record.shape) == 1 and name in VECTOR_SCHEMES:
        return VECTOR_SCHEMES[name]
    if name not in SCHEMES:
        raise UnsupportedModelError(
            f"The tensor {record.name} has the type {name}, which is not supported.",
            why=f"Rowspan reads {', '.join(SCHEMES)}.",
            fix="Choose another quantization of this model.",
        )
    return SCHEMES[name]


def _nbytes(record: TensorRecord) -> int:
    scheme = _scheme_of(record)
    return math.prod(record.shape) // scheme.block_size * scheme.block_bytes


def _is_joined(header: Header, data: mmap.mmap) -> bool:
    """Whether another file begins where the tensors end, which are padded to the alignment."""
    end = max((record.start + _nbytes(record) for record in header.tensors), default=header.nbytes)
    return data.find(MAGIC, end, end + int(header.metadata.get("general.alignment", DEFAULT_ALIGNMENT)) + 4) >= 0


def _bounds(part: slice, length: int) -> tuple[int, int]:
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"a slice with step {step}")
    return start, max(start, stop)
