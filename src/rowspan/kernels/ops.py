"""The ops a model is made of. `kernels/torch` is the oracle; every faster implementation is tested against it.

Activations have one row for each of a step's T tokens (or N outputs); heads lie side by side in a row. What they are
held in is the kernels' affair: tensors, or names of buffers while the step is recorded. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Comm
from rowspan.kernels.sampling import SamplingBatch
from rowspan.model.rope_table import RopeTable

KEY_TILE = 256  # positions; slot tables are padded to a multiple of it, so that torch's attention has whole tiles

Array = TypeVar("Array")


class Weight(Protocol):
    """A matrix in one of the runtime layouts. `x @ weight.T` has `rows` outputs and takes `columns` inputs."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class RawRows:
    """Rows of an embedding still in their file's blocks, uint8 (rows, bytes per row), a view of the mapped file: so a
    table that is also the head is not held twice. The first one is that of vocabulary entry `first`."""

    scheme: str
    blocks: NDArray[np.uint8]
    columns: int
    first: int


def pending_token(row: Any) -> Any:
    """What stands in `StepInputs.tokens` for the token that the last `sample` chose for this row of its logits, which
    only the card knows: a negative number, as no token is. The function is its own inverse; plans of the scheduler have
    `rowspan.scheduler.batch.LATEST` instead.

    Args:
        row: an int, or an array or tensor of them.
    """
    return -1 - row


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, sequence by sequence. All arrays are contiguous int64, but for the tables of blocks.

    Sequence s has rows starts[s] … starts[s + 1] - 1, at consecutive positions.
    """

    tokens: NDArray[np.int64]  # (T,); of kernels that sample, also `pending_token`s
    starts: NDArray[np.int64]  # (sequences + 1,)
    first_positions: NDArray[np.int64]  # (sequences,) of each sequence's first token
    blocks: NDArray[np.int32]  # (sequences, B): cache blocks of positions 0, 1, …; padded with any valid block
    block_size: int  # slots of a block: position p is in slot blocks[s, p // block_size] * block_size + p % block_size
    output_rows: NDArray[np.int64]  # (N,) tokens whose logits are wanted

    @cached_property
    def _sequences(self) -> NDArray[np.int64]:
        """(T,): each token's."""
        return np.repeat(np.arange(len(self.first_positions)), np.diff(self.starts))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(T,)"""
        starts, sequences = self.starts[:-1], self._sequences
        return self.first_positions[sequences] + np.arange(len(sequences)) - starts[sequences]

    @cached_property
    def cache_slots(self) -> NDArray[np.int64]:
        """(T,): where each token's key and value go."""
        blocks = self.blocks[self._sequences, self.positions // self.block_size]
        return blocks.astype(np.int64) * self.block_size + self.positions % self.block_size

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(sequences, L): cache slot of position 0, 1, …; padded with any valid slot to length L."""
        width = -(-self.blocks.shape[1] * self.block_size // KEY_TILE) * KEY_TILE
        padded = np.zeros((len(self.blocks), -(-width // self.block_size)), np.int64)
        padded[:, : self.blocks.shape[1]] = self.blocks
        slots = (padded[:, :, None] * self.block_size + np.arange(self.block_size)).reshape(len(padded), -1)
        return np.ascontiguousarray(slots[:, :width])

    @cached_property
    def outputs_only(self) -> StepInputs:
        """The step as if its output rows were all its tokens. Those of a sequence must follow one another."""
        rows = self.output_rows
        starts = np.searchsorted(rows, self.starts)
        first_positions = self.first_positions.copy()
        some = starts[:-1] < starts[1:]
        first_positions[some] = self.positions[rows[starts[:-1][some]]]
        return StepInputs(
            tokens=self.tokens[rows],
            starts=starts,
            first_positions=first_positions,
            blocks=self.blocks,
            block_size=self.block_size,
            output_rows=np.arange(len(rows)),
        )


@dataclass(frozen=True)
class StepLimits:
    """The most that one step has."""

    tokens: int
    outputs: int  # tokens whose logits are wanted; so many sequences decode at once
    blocks: int  # of one sequence's table
    block_size: int


class LayerCache(Protocol):
    """One layer's keys and values: S slots × KV heads × head size."""

    @property
    def nbytes(self) -> int: ...


class DeviceMemoryError(Exception):
    """The memory of a card is full. What was under way is lost; what was held before is still there."""


class DeviceMemory(Protocol):
    """The memory of a card, which weights and caches are in."""

    def profile(self, largest_steps: Sequence[Callable[[], object]], share: float, sharers: int = 1) -> int:
        """Bytes that a cache may take.

        Args:
            largest_steps: compute steps as large as there may be; what each takes is kept free beside the others.
            share: of the whole memory, which everyone who uses the card may fill together.
            sharers: ranks that have loaded, need as much for steps, and will make a cache as large.

        Raises:
            DeviceMemoryError: not even these steps fit.
        """
        ...

    def detached(self, comm: Comm[Any]) -> Comm[Any]:
        """Connections of the same shapes to nobody, for a rank that profiles by itself."""
        ...

    def trim(self) -> None:
        """Give the system what nothing needs any more."""
        ...

    def offload(self) -> None:
        """Move all weights to the host's memory. Nothing can be computed until `restore`."""
        ...

    def restore(self) -> None:
        """Move them back."""
        ...


Forward = Callable[[Any], Any]
"""A model: takes a step's inputs in the kernels' own form, passes them on to ops, and returns logits, or None on ranks
that have none."""


Step = Callable[[StepInputs], Any]
"""From a step's inputs to float32 logits (N, vocabulary), valid until the next call; None on ranks that have none. They
are NumPy arrays, or, of kernels that sample, what they sample from. Raises DeviceMemoryError."""

WaitForTokens = Callable[[], NDArray[np.float64]]
"""Waits for what the card was told to compute."""

Sample = Callable[[Any, SamplingBatch[NDArray[np.generic]]], WaitForTokens]
"""Has tokens chosen from logits on the card: see `rowspan.kernels.triton.sampling.choose_tokens`. Returns at once; the
next step may be launched before they are here, and have them as its tokens. Nothing of the vocabulary's size leaves
the card."""


class Kernels(Protocol[Array]):
    """One device's implementation of the ops, and of what they work on."""

    @property
    def name(self) -> str:
        """As `rowspan.kernels.isa` calls them."""
        ...

    @property
    def sample(self) -> Sample | None:
        """None: the host samples."""
        ...

    @property
    def memory(self) -> DeviceMemory | None:
        """None: the host's, which the plan has counted."""
        ...

    def matrix(self, scheme: str, raw: NDArray[np.uint8], shape: tuple[int, int]) -> Weight:
        """A file's blocks, uint8 (rows, bytes per row), in this device's runtime layout of a (rows, columns) matrix."""
        ...

    def join(self, weights: Sequence[Weight], biases: Sequence[Any]) -> tuple[Weight, Any] | None:
        """Matrices of the same input, and their biases, as one, in place of them; None, and nothing is done, where that
        cannot be or gains nothing."""
        ...

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> Any:
        """A norm's weights, or a bias."""
        ...

    def rope_table(self, table: RopeTable) -> Any: ...

    def cache(self, n_slots: int, kv_heads: int, head_dim: int, types: tuple[str, str]) -> LayerCache:
        """Room for one layer's keys and values, of these types (native kernels: `rowspan.config.CACHE_TYPES`, others:
        `TENSOR_CACHE_TYPES`). Not touched: on CPUs the system hands out pages only as they are first written."""
        ...

    def connect(self, comm: Comm[Any]) -> Comm[Array]:
        """Connections to other ranks that take this implementation's arrays."""
        ...

    def finish_loading(self) -> None:
        """All weights have been handed over: wait until they are where they belong."""
        ...

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        """Make the model ready to be run over and over; or, for profiling, once, with as little ado as possible."""
        ...

    def lookup(self, table: RawRows) -> Any:
        """The table of an embedding where this device looks rows up: in the mapped file, or in its own memory."""
        ...

    def embedding(self, table: Any, inputs: Any) -> Array:
        """Rows of the table, (T, columns). Tokens outside it give zeros, so that the sum over all ranks is the
        embedding."""
        ...

    def linear(self, x: Array, weight: Weight, bias: Any = None) -> Array:
        """(T, columns) → (T, rows)."""
        ...

    def logits(self, x: Array, weight: Weight) -> Array:
        """(N, columns) → (N, rows) in float32, whatever activations are: rounded to bfloat16, logits of 8 and more move
        log-probabilities by up to 0.03, and the two likeliest tokens are often equals."""
        ...

    def split_columns(self, x: Array, widths: Sequence[int]) -> Sequence[Array]:
        """What a joined product worked out, taken apart again."""
        ...

    def add(self, x: Array, y: Array) -> Array:
        """Of hidden states: in float32, here and in `add_rms_norm`, whatever activations are. Rounded to bfloat16 in
        each layer, they made log-probabilities of SmolLM2-135M twice as inexact."""
        ...

    def rms_norm(self, x: Array, weight: Any, eps: float) -> Array:
        """x / rms(x) · weight (Zhang and Sennrich 2019) over each stretch of x as long as weight."""
        ...

    def add_rms_norm(self, x: Array, y: Array, weight: Any, eps: float) -> tuple[Array, Array]:
        """rms_norm of x + y, and x + y."""
        ...

    def rope_and_cache(self, q: Array, k: Array, v: Array, table: Any, head_dim: int, cache: Any, inputs: Any) -> Array:
        """Rotate the leading elements of each head of q and k (T, heads · head_dim) by the angles of its token's
        position; store k and v (T, KV heads · head size); return q."""
        ...

    def attention(self, q: Array, cache: Any, inputs: Any, window: int | None) -> Array:
        """Causal attention of q (T, heads · head size) over each sequence's cached positions, scaled by
        1/√(head size) → (T, heads · head size).

        window: how many positions back (itself included) a token sees; None = all of them.
        """
        ...

    def gated_silu(self, gate: Array, up: Array) -> Array:
        """silu(gate) · up."""
        ...

    def gather_output_rows(self, x: Array, inputs: Any) -> Array:
        """The rows whose logits are wanted, (N, width)."""
        ...

    def outputs_only(self, inputs: Any) -> Any:
        """Inputs for the attention of these rows alone: `StepInputs.outputs_only` in the kernels' own form."""
        ...
