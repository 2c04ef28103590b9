"""A model's header, which is known before any weight is read: metadata under GGUF's keys, and the list of tensors.

GGUF's metadata keys (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) are the common language; other
checkpoint formats, configurations and catalogs translate theirs into them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import CheckpointError

Shapes = Mapping[TensorKey, tuple[int, ...]]
MOST_LAYERS = 10_000  # a header may claim any number; models have a few hundred at most


@dataclass(frozen=True)
class ModelHeader:
    """Typed access to a model's metadata, and to the shapes of its tensors.

    vocab_size: number of rows of the embedding.
    tied: the embedding is also the head.
    shapes: shapes of the tensors; None if only dimensions are known, as in a catalog.
    title: the model's name if its metadata have none.
    for_planning: only bytes are to be counted, so that keys needed only for computing may be missing.
    """

    metadata: Mapping[str, Any]
    vocab_size: int
    tied: bool
    shapes: Shapes | None = None
    title: str = ""
    for_planning: bool = False
    _read: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _arrays: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def architecture(self) -> str:
        architecture = self.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(
                "The model file does not say what architecture it holds.",
                why="The metadata key general.architecture is missing.",
                fix="Convert the model again with a current converter.",
            )
        return architecture

    @property
    def name(self) -> str:
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) and name else self.title or self.architecture

    @cached_property
    def n_layers(self) -> int:
        """Number of layers, without those that predict further tokens than the next: a file has these at its end."""
        count = self.integer("block_count") - (self.optional_integer("nextn_predict_layers") or 0)
        if count < 1:
            raise self.contradiction("all layers predict further tokens")
        if count > MOST_LAYERS:
            raise self.contradiction(f"{count} layers are announced")
        return count

    @cached_property
    def _held(self) -> frozenset[tuple[Role, str]]:
        return frozenset((key.role, key.part) for key in self.shapes or ())

    def has(self, role: Role, part: str = "weight", *, otherwise: bool = False) -> bool:
        """Whether any layer has a tensor of this role. otherwise: the answer if only dimensions are known."""
        return otherwise if self.shapes is None else (role, part) in self._held

    def has_in_layer(self, role: Role, layer: int, *, otherwise: bool = False) -> bool:
        """Whether this layer has a tensor of this role. otherwise: the answer if only dimensions are known."""
        return otherwise if self.shapes is None else TensorKey(role, layer) in self.shapes

    def get(self, key: str) -> Any:
        """The value of a key, given without its prefix, the architecture; None if it is absent."""
        self._read.add(key)
        return self.peek(key)

    def peek(self, key: str) -> Any:
        """The same, but the key does not count as read."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def has_read(self, key: str) -> bool:
        """Whether a family has asked for a key, and so knows what it means."""
        return key in self._read

    def integer(self, key: str, default: int | None = None) -> int:
        """A count or size: a positive integer."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        return self._positive(key, value)

    def optional_integer(self, key: str, default: int | None = None) -> int | None:
        """A size that may be absent; 0 means absent."""
        value = self.get(key)
        if value is None:
            return default
        absent = isinstance(value, int) and not isinstance(value, bool) and value == 0
        return None if absent else self._positive(key, value)

    def in_layer(self, key: str, layer: int, default: int | None = None) -> int:
        """The size of one layer, from one value for all layers or an array with one for each; 0 is allowed in arrays.

        Raises:
            CheckpointError: the array has another length, or holds no sizes.
        """
        value = self.get(key)
        if not _is_array(value):
            return self.integer(key, default)
        if key not in self._arrays:  # checked once: layers, and what a file claims of them, may be thousands
            self._arrays[key] = self._checked(key, value)
        return self._arrays[key][layer]

    def per_layer(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """The sizes of all layers: see `in_layer`."""
        return tuple(self.in_layer(key, layer, default) for layer in range(self.n_layers))

    def _checked(self, key: str, value: Any) -> tuple[int, ...]:
        sizes = [int(one) if _is_integer(one) else -1 for one in value]
        if len(sizes) < self.n_layers or any(not 0 <= size < 2**31 for size in sizes):
            raise self.contradiction(f"{self.architecture}.{key} has no size for each of {self.n_layers} layers")
        return tuple(sizes[: self.n_layers])

    def flags(self, key: str) -> tuple[bool, ...] | None:
        """A boolean for each layer, from an array; None if the key is absent, or no array."""
        value = self.get(key)
        if not _is_array(value):
            return None
        if len(value) < self.n_layers:
            raise self.contradiction(f"{self.architecture}.{key} has no value for each of {self.n_layers} layers")
        return tuple(bool(one) for one in value[: self.n_layers])

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.contradiction(f"{self.architecture}.{key} is {_short(value)}, true or false is due")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.contradiction(f"{self.architecture}.{key} is {_short(value)}, a word is due")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.contradiction(f"{self.architecture}.{key} is {_short(value)}, a number is due")
        return float(value)

    def _positive(self, key: str, value: Any) -> int:
        if not _is_integer(value) or not 0 < value < 2**31:
            raise self.contradiction(f"{self.architecture}.{key} is {_short(value)}, a positive integer is due")
        return int(value)

    def contradiction(self, why: str) -> CheckpointError:
        return CheckpointError(
            "The model file contradicts itself.",
            why=f"In its metadata or tensors: {why}.",
            fix="Fetch the file again; if it stays so, the conversion was faulty.",
        )


def _is_array(value: Any) -> bool:
    """Whether a value is a list or, for numbers, a NumPy array; NumPy need not be imported to tell."""
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]
