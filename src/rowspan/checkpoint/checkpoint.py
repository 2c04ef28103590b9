"""Checkpoint: the interface to a model's files, the same for every file format. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rowspan.checkpoint.tensor_names import TensorKey

if TYPE_CHECKING:
    from rowspan.quant.stored import StoredMatrix


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where and how a tensor is stored.

    shape: (outputs, inputs) for matrices, (length,) for vectors: the reverse of GGUF's dimension order.
    scheme: name of its weight scheme in `rowspan.quant`, e.g. "Q4_1".
    """

    shape: tuple[int, ...]
    scheme: str
    nbytes: int


class Checkpoint(Protocol):
    """A model's files, open for reading."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Hyperparameters, vocabulary and chat template under GGUF's key names, as plain Python values.

        Arrays of numbers may be numpy arrays; arrays of strings are lists of str.
        """
        ...

    @property
    def tensors(self) -> Mapping[TensorKey, TensorInfo]: ...

    @property
    def unknown_tensors(self) -> Sequence[str]:
        """Names of tensors that have no `TensorKey`, as the file spells them."""
        ...

    @property
    def shapes(self) -> Mapping[TensorKey, tuple[int, ...]]: ...

    def read(self, key: TensorKey, rows: slice = slice(None), columns: slice = slice(None)) -> StoredMatrix:
        """A slice as it is stored, of views of the mapped file where it can be.

        `columns` is in elements and must fall on block borders; of vectors (one row) it selects elements.
        """
        ...

    def prefetch(self, key: TensorKey) -> None:
        """Fetch a tensor's pages from the disk, because it will be read soon. This waits for slow disks: call it in a
        thread.
        """
        ...

    def release(self, key: TensorKey) -> None:
        """Release a tensor's pages from this process's memory, because it will hardly be read again. Views stay
        valid.
        """
        ...

    def close(self) -> None: ...
