"""The ops that a model is made of. `kernels/torch` is the oracle; every faster implementation is tested against it.

Activations have one row for each of a step's T tokens (or N outputs); heads lie side by side in a row. The kernels
decide what holds activations: tensors, or names of buffers while the step is recorded. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Comm
from rowspan.kernels.sampling import SamplingBatch
from rowspan.model.rope_table import RopeTable
from rowspan.model.spec import Activation, MoeSpec
from rowspan.quant.stored import StoredMatrix

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
    """Rows of an embedding still as stored, in blocks that are a view of the mapped file: so a table that is also the
    head is not held twice. The first one is that of vocabulary entry `first`."""

    stored: StoredMatrix
    first: int


def pending_token(row: Any) -> Any:
    """The negative number that stands in `StepInputs.tokens` for the token that the last `sample` chose for this row of
    its logits, which only the card knows. The function is its own inverse; plans of the scheduler have
    `rowspan.scheduler.batch.LATEST` instead.

    Args:
        row: an int, or an array or tensor of them.
    """
    return -1 - row


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, sequence by sequence. All arrays are contiguous int64, except the block tables.

    Sequence s has rows starts[s] … starts[s + 1] - 1, at consecutive positions.
    """

    tokens: NDArray[np.int64]  # (T,); of kernels that sample, also `pending_token`s
    starts: NDArray[np.int64]  # (sequences + 1,)
    first_positions: NDArray[np.int64]  # (sequences,) of each sequence's first token
    # (groups, sequences, B): cache blocks of positions 0, 1, … for each group of layers (`ModelSpec.cache_groups`);
    # padded with any valid block, which also stands for what is behind a window
    tables: NDArray[np.int32]
    block_size: int  # slots of a block b: position p is in slot b * block_size + p % block_size
    output_rows: NDArray[np.int64]  # (N,) tokens that something is wanted of; only they leave the last layer
    logit_rows: NDArray[np.int64] | None = None  # (L,) which of the output rows have logits; None: all
    hidden_rows: NDArray[np.int64] | None = None  # (H,) which of them have their hidden states told; None: none

    @cached_property
    def _sequences(self) -> NDArray[np.int64]:
        """The index of each token's sequence, (T,)."""
        return np.repeat(np.arange(len(self.first_positions)), np.diff(self.starts))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The position of each token in its sequence, (T,)."""
        starts, sequences = self.starts[:-1], self._sequences
        return self.first_positions[sequences] + np.arange(len(sequences)) - starts[sequences]

    @cached_property
    def cache_slots(self) -> NDArray[np.int64]:
        """(groups, T): where each token's key and value go."""
        blocks = self.tables[:, self._sequences, self.positions // self.block_size]
        return blocks.astype(np.int64) * self.block_size + self.positions % self.block_size

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(groups, sequences, L): cache slot of position 0, 1, …; padded with any valid slot to length L."""
        groups, sequences, n_blocks = self.tables.shape
        width = -(-n_blocks * self.block_size // KEY_TILE) * KEY_TILE
        padded = np.zeros((groups, sequences, -(-width // self.block_size)), np.int64)
        padded[:, :, :n_blocks] = self.tables
        slots = padded[..., None] * self.block_size + np.arange(self.block_size)
        return np.ascontiguousarray(slots.reshape(groups, sequences, -1)[..., :width])

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
            tables=self.tables,
            block_size=self.block_size,
            output_rows=np.arange(len(rows)),
        )


@dataclass(frozen=True)
class StepLimits:
    """The most tokens, outputs and cache blocks that one step has."""

    tokens: int
    logits: int  # tokens whose logits are wanted; so many sequences decode at once
    blocks: int  # of one sequence's table
    block_size: int
    groups: int = 1  # of layers, each of which has tables of its own


@dataclass(frozen=True)
class AttentionOptions:
    """Variations of attention, softmax(q · keys) · values.

    scale: factor of the scores; None: 1/√(key size).
    window: number of positions that a token sees, itself included; None: all positions up to it.
    soft_cap: c in c · tanh(scores / c), applied before the mask (Gemma 2, https://arxiv.org/abs/2408.00118).
    causal: else a token sees its whole sequence, or half a window on either side. All of it is in the step, and the
        last of its rows is its last token.
    """

    scale: float | None = None
    window: int | None = None
    soft_cap: float | None = None
    causal: bool = True


@dataclass(frozen=True)
class Experts:
    """The experts of one layer that a rank holds: H whole ones, or a part of each one's width.

    gate, up, down: from `Kernels.experts`; gate is None where the MLP has none.
    biases: float32 (H · rows,), from `vector`, or None.
    selection_bias: (E,) of all experts, from `vector`: see `MoeSpec`.
    scales: (E,) factors of experts' outputs, from `vector`, or None.
    first: the index among all experts of the first one held.
    """

    gate: Weight | None
    up: Weight
    down: Weight
    gate_bias: Any = None
    up_bias: Any = None
    down_bias: Any = None
    selection_bias: Any = None
    scales: Any = None
    first: int = 0


class LayerCache(Protocol):
    """One layer's keys and values: S slots × KV heads × their sizes. group: the index of its tables in `StepInputs`."""

    @property
    def group(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class DeviceMemoryError(Exception):
    """A card's memory is full. The step under way is lost; weights and cache are still there."""


class DeviceMemory(Protocol):
    """A card's memory, which holds weights and caches."""

    def profile(self, largest_steps: Sequence[Callable[[], object]], share: float, sharers: int = 1) -> int:
        """Bytes that a cache may take.

        Args:
            largest_steps: functions that compute steps as large as there may be; the memory that each takes is kept
                free.
            share: share of the whole memory that all programs on the card may fill together.
            sharers: number of ranks on the card that have loaded, need as much for steps, and will make a cache as
                large.

        Raises:
            DeviceMemoryError: not even these steps fit.
        """
        ...

    def detached(self, comm: Comm[Any]) -> Comm[Any]:
        """Connections of the same shapes that reach nobody, for a rank that profiles by itself."""
        ...

    def trim(self) -> None:
        """Return unused memory to the system."""
        ...

    def offload(self) -> None:
        """Move all weights to the host's memory. Nothing can be computed until `restore`."""
        ...

    def restore(self) -> None:
        """Move all weights back to the card."""
        ...


class Outputs(NamedTuple, Generic[Array]):
    """What a step gives back."""

    logits: Array | None  # float32 (L, vocabulary); None: the model has no head
    hidden: Array | None  # hidden states after the final norm; a model gives those of all output rows, (N, hidden size)


Forward = Callable[[Any], Any]
"""A model: takes a step's inputs in the kernels' own form, passes them on to ops, and returns `Outputs`, or None on
ranks that have none."""


Step = Callable[[StepInputs], Any]
"""From a step's inputs to `Outputs`, valid until the next call; None on ranks that have none. Logits are a NumPy array,
or, of kernels that sample, what they sample from. Hidden states are float32 NumPy (H, hidden size), or None where
nobody asked for any. Raises DeviceMemoryError."""

WaitForTokens = Callable[[], NDArray[np.float64]]
"""Waits until the card has chosen the tokens, and returns them."""

Sample = Callable[[Any, SamplingBatch[NDArray[np.generic]]], WaitForTokens]
"""Makes the card choose tokens from logits: see `rowspan.kernels.triton.sampling.choose_tokens`. It returns at once;
the next step may be launched before the tokens are here, and take them as its input. Nothing of the vocabulary's size
leaves the card.
"""


class Kernels(Protocol[Array]):
    """One device's implementation of the ops, with the types that they compute on."""

    @property
    def name(self) -> str:
        """The name that `rowspan.kernels.isa` gives these kernels."""
        ...

    @property
    def sample(self) -> Sample | None:
        """Samples tokens on the device; None: the host samples."""
        ...

    @property
    def memory(self) -> DeviceMemory | None:
        """The memory of a card; None: the kernels use the host's, which the plan has counted."""
        ...

    def matrix(self, stored: StoredMatrix) -> Weight:
        """A file's matrix in this device's runtime layout.

        Raises:
            UnsupportedModelError: this device has no layout for the scheme.
        """
        ...

    def experts(self, stored: StoredMatrix, count: int) -> Weight:
        """The matrices of `count` experts, which follow one another in `stored`, in this device's runtime layout. The
        weight's rows are those of one expert.
        """
        ...

    def join(self, weights: Sequence[Weight], biases: Sequence[Any]) -> tuple[Weight, Any] | None:
        """Matrices with the same input joined into one, and their biases, in place of the separate ones. None, with
        nothing done, if they cannot be joined or joining gains nothing.
        """
        ...

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> Any:
        """A norm's weights, a bias, or rows that are added by position, in the kernels' form."""
        ...

    def rope_table(self, table: RopeTable) -> Any: ...

    def cache(
        self, n_slots: int, kv_heads: int, key_size: int, value_size: int, types: tuple[str, str], group: int = 0
    ) -> LayerCache:
        """Room for one layer's keys and values, of these types (`CacheType.dtype` of
        `rowspan.quant.cache_types`). Not touched: on CPUs the system hands out pages only as they are first written."""
        ...

    def connect(self, comm: Comm[Any]) -> Comm[Array]:
        """Connections to other ranks that take this implementation's arrays."""
        ...

    def finish_loading(self) -> None:
        """Wait until all weights are where they belong. Called once all have been handed over."""
        ...

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        """Make the model ready to be run repeatedly; or, for profiling, once, with as little preparation as
        possible.
        """
        ...

    def lookup(self, table: RawRows) -> Any:
        """An embedding's table in the place where this device looks rows up: the mapped file, or its own memory."""
        ...

    def embedding(self, table: Any, inputs: Any) -> Array:
        """Rows of the table, (T, columns). Tokens outside it give zeros, so that the sum over all ranks is the
        embedding.
        """
        ...

    def linear(self, x: Array, weight: Weight, bias: Any = None) -> Array:
        """x @ weight.T + bias, (T, columns) → (T, rows)."""
        ...

    def logits(self, x: Array, weight: Weight) -> Array:
        """x @ weight.T, (N, columns) → (N, rows), in float32 whatever type activations have: rounding to bfloat16 moves
        log-probabilities by up to 0.03 where logits are 8 and more, and would often make the two likeliest tokens
        equal.
        """
        ...

    def split_columns(self, x: Array, widths: Sequence[int]) -> Sequence[Array]:
        """Take the result of a joined product apart again."""
        ...

    def add(self, x: Array, y: Array) -> Array:
        """The sum of hidden states, in float32 here and in `add_rms_norm`, whatever type activations have. Rounding it
        to bfloat16 in each layer made log-probabilities of SmolLM2-135M twice as inexact.
        """
        ...

    def scale(self, x: Array, factor: float) -> Array:
        """x · factor, for embeddings, logits, or the result of a mixer or an MLP."""
        ...

    def soft_cap(self, x: Array, cap: float) -> Array:
        """cap · tanh(x / cap), for logits."""
        ...

    def rms_norm(self, x: Array, weight: Any, eps: float) -> Array:
        """x / rms(x) · weight (Zhang and Sennrich 2019) over each stretch of x as long as weight."""
        ...

    def add_rms_norm(self, x: Array, y: Array, weight: Any, eps: float) -> tuple[Array, Array]:
        """rms_norm of x + y, and x + y."""
        ...

    def layer_norm(self, x: Array, weight: Any, eps: float, bias: Any = None) -> Array:
        """(x - mean) / √(variance + eps) · weight + bias of each row (Ba et al. 2016)."""
        ...

    def scale_by_position(self, x: Array, factors: Any, inputs: Any) -> Array:
        """x (T, width) · the factor of its token's position. factors: (positions,), from `vector`."""
        ...

    def add_by_position(self, x: Array, table: Any, inputs: Any) -> Array:
        """x (T, width) + the row of its token's position. table: (positions, width), from `vector`; the last row also
        stands for all positions behind it.
        """
        ...

    def rope_and_cache(self, q: Array, k: Array, v: Array, table: Any, cache: Any, inputs: Any) -> Array:
        """Rotate the leading elements of each head of q and k (T, heads · key size) by the angles of its token's
        position; store k and v (T, KV heads · their sizes); return q. table: None: nothing is rotated."""
        ...

    def attention(
        self,
        q: Array,
        cache: Any,
        inputs: Any,
        options: AttentionOptions,
        sinks: Any = None,
        gate: Array | None = None,
    ) -> Array:
        """Attention of q (T, heads · key size) over each sequence's cached positions → (T, heads · value size).

        Args:
            sinks: one number per head, from `vector`: one more score in each softmax, of a key without a value, which
                is neither scaled nor capped (Xiao et al. 2023, https://arxiv.org/abs/2309.17453).
            gate: (T, heads · value size): the result is multiplied by its sigmoid (Qiu et al. 2025,
                https://arxiv.org/abs/2505.06708).
        """
        ...

    def gated(self, gate: Array, up: Array, activation: Activation) -> Array:
        """activation(gate) · up; see `Activation`."""
        ...

    def activate(self, x: Array, activation: Activation) -> Array:
        """activation(x), for MLPs without a gate."""
        ...

    def mixture(self, x: Array, logits: Array, experts: Experts, spec: MoeSpec) -> Array:
        """What the experts add of x (T, hidden) that the router's logits (T, experts) choose for each token: the sum
        over those that this rank holds of weight · down(activation(gate) · up), (T, hidden); see `MoeSpec`. A token's
        result does not depend on the others.
        """
        ...

    def head_linear(self, x: Array, weight: Weight) -> Array:
        """A product of its own for each head: x (T, heads · columns) → (T, heads · rows). weight: from `experts`, a
        matrix for each head.
        """
        ...

    def split_heads(self, x: Array, sizes: Sequence[int]) -> Sequence[Array]:
        """Each head of x (T, heads · sum of sizes) taken apart: (T, heads · size) for each size."""
        ...

    def join_heads(self, a: Array, b: Array, heads: int) -> Array:
        """The heads of a (T, heads · A), each followed by that of b (T, heads · B): (T, heads · (A + B))."""
        ...

    def gate_rows(self, x: Array, gate: Array) -> Array:
        """x (T, width) · sigmoid(gate (T, 1)), for an MLP shared by all tokens."""
        ...

    def gather_output_rows(self, x: Array, inputs: Any) -> Array:
        """The rows that something is wanted of, (N, width)."""
        ...

    def gather_logit_rows(self, x: Array, inputs: Any) -> Array:
        """Of output rows (N, width) those whose logits are wanted, (L, width)."""
        ...

    def outputs_only(self, inputs: Any) -> Any:
        """Inputs for the attention of the output rows only: `StepInputs.outputs_only` in the kernels' own form."""
        ...
