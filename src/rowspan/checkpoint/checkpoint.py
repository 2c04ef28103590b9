"""Checkpoint: what every file format becomes. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rowspan.checkpoint.tensor_names import TensorKey

if TYPE_CHECKING:
    import numpy as np


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
        """Hyperparameters, vocabulary, chat template: under GGUF's key names, as plain Python values.

        Arrays of numbers may be numpy arrays; arrays of strings are lists of str."""
        ...

    @property
    def tensors(self) -> Mapping[TensorKey, TensorInfo]: ...

    @property
    def unknown_tensors(self) -> Sequence[str]:
        """Names of tensors that have no `TensorKey`, as the file spells them."""
        ...

    @property
    def shapes(self) -> Mapping[TensorKey, tuple[int, ...]]: ...

    def read(self, key: TensorKey, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """The raw blocks of a slice, shape (rows, bytes per row), uint8; a view of the mapped file where it can be.

        `columns` is in elements and must fall on block borders; of vectors (one row) it selects elements.
        """
        ...

    def prefetch(self, key: TensorKey) -> None:
        """A tensor will be read soon: have its pages fetched from the disk. Waits for a slow one: for a thread."""
        ...

    def release(self, key: TensorKey) -> None:
        """A tensor will hardly be read again: its pages need not stay in this process's memory. Views stay valid."""
        ...

    def close(self) -> None: ...
