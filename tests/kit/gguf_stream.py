"""Writes large GGUF files tensor by tensor, so that few are in memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from kit.gguf_bytes import padded, tensor_info

ALIGNMENT = 32


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when its turn comes. make: its raw blocks, of `nbytes` bytes."""

    name: str
    shape: tuple[int, ...]
    scheme: str
    make: Callable[[], np.ndarray]

    @property
    def ggml_type(self) -> int:
        return int(gguf.GGMLQuantizationType[self.scheme])

    @property
    def nbytes(self) -> int:
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.scheme]]
        return int(np.prod(self.shape)) // int(block_size) * int(block_bytes)


def write_gguf(path: Path, metadata: Sequence[bytes], tensors: Iterable[LazyTensor], threads: int = 1) -> Path:
    """Write one file.

    Args:
        metadata: encoded pairs of key and value; see `kit.gguf_bytes`. Alignment must be left at its default.
        threads: so many tensors are made and written at once.
    """
    tensors = list(tensors)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata)), *metadata]
    offsets, offset = [], 0
    for tensor in tensors:
        head.append(tensor_info(tensor.name, tensor.shape, tensor.ggml_type, offset))
        offsets.append(offset)
        offset += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        begin = file.write(padded(b"".join(head), ALIGNMENT))
        file.truncate(begin + offset)  # what pads tensors is zero
        file.flush()
        list(pool.map(lambda pair: _write(file.fileno(), pair[0], begin + pair[1]), zip(tensors, offsets, strict=True)))
    return path


def _write(descriptor: int, tensor: LazyTensor, at: int) -> None:
    raw = np.ascontiguousarray(tensor.make()).reshape(-1).view(np.uint8).data
    assert raw.nbytes == tensor.nbytes, tensor.name
    while raw:
        written = os.pwrite(descriptor, raw, at)  # 2 GB at the most, by Linux
        raw, at = raw[written:], at + written
