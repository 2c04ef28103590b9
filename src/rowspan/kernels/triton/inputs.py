"""Brings a step's inputs to the card: one staging buffer, one copy, always to the same place, as captured graphs need.
Tokens that the step before chose are on the card already, and are put into their places there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from rowspan.kernels.ops import StepInputs, StepLimits, pending_token
from rowspan.kernels.sampling import SamplingBatch
from rowspan.kernels.torch.upload import pinned

INT = 4  # bytes of all these numbers
ALIGNMENT = 8  # bytes, of the largest numbers that are sent
TURNS = 2  # staging buffers, so that the next step's may be filled before this step's is copied
TAKE_BLOCK = 256  # tokens of a program


@dataclass(frozen=True)
class CardInputs:
    """`rowspan.kernels.ops.StepInputs` on a card, all int32."""

    tokens: Tensor  # (T,)
    positions: Tensor  # (T,)
    cache_slots: tuple[Tensor, ...]  # of each group of layers (T,)
    starts: Tensor  # (sequences + 1,)
    tables: tuple[Tensor, ...]  # of each group of layers (sequences, B): rows may lie apart
    output_rows: Tensor | None  # (N,); None: all of them
    logit_rows: Tensor | None  # (L,) among the output rows; None: all of them
    block_size: int
    max_query: int  # most tokens of one sequence

    @cached_property
    def outputs_only(self) -> CardInputs:
        """The inputs for the output rows alone, like `StepInputs.outputs_only`."""
        rows = self.output_rows
        if rows is None:
            return self
        return replace(
            self,
            tokens=self.tokens[rows],
            positions=self.positions[rows],
            cache_slots=tuple(slots[rows] for slots in self.cache_slots),
            starts=torch.searchsorted(rows, self.starts, out_int32=True),
            output_rows=None,
            logit_rows=None,
            max_query=min(self.max_query, len(rows)),
        )


class Staging:
    """Memory of the host from which a card copies by itself, while the host fills more of it for the next step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * TURNS
        self._copied: list[torch.cuda.Event | None] = [None] * TURNS
        self._turn = 0

    def take(self, nbytes: int) -> Tensor:
        """Reserve uint8 memory with arbitrary contents, to be filled and handed to `copy`."""
        self._turn = (self._turn + 1) % TURNS
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()  # of the step before the last: long done
        if (had := self._buffers[self._turn].nbytes) < nbytes:
            size = max(nbytes, 2 * had)  # seldom: it takes long
            on_card = self._device.type == "cuda"
            self._buffers[self._turn] = pinned(size).zero_() if on_card else torch.zeros(size, dtype=torch.uint8)
        return self._buffers[self._turn][:nbytes]

    def copy(self, filled: Tensor, to: Tensor) -> None:
        """Make the card copy what was filled last."""
        to.copy_(filled, non_blocking=True)
        if self._device.type == "cuda":
            self._copied[self._turn] = event = torch.cuda.Event()
            event.record()


class InputBuffers:
    """Memory for the inputs of any step within the limits."""

    def __init__(self, device: torch.device, limits: StepLimits, n_slots: Sequence[int]) -> None:
        """
        Args:
            n_slots: of each group's caches; one more than these is there, for sequences that only fill up a graph.
        """
        self._limits = limits
        self._spare_slots = np.array(n_slots, np.int32)
        tokens = [limits.tokens] * limits.groups  # their slots
        rows = (limits.tokens, limits.tokens)  # of outputs, and of those with logits
        lengths = (limits.tokens, limits.tokens, limits.tokens + 1, *rows, *tokens)
        self._cuts = [0, *np.cumsum(lengths).tolist()]
        size = self._cuts[-1] + limits.groups * limits.tokens * limits.blocks
        self._size = size
        self._on_card = torch.zeros(size, dtype=torch.int32, device=device)
        self.chosen = torch.zeros(limits.logits, dtype=torch.int32, device=device)
        self._staging = Staging(device)
        self._counting = np.arange(limits.tokens + 1, dtype=np.int32)

    def fill(self, inputs: StepInputs) -> CardInputs:
        """Copy the inputs of any step to the card."""
        outputs, logits = inputs.output_rows, inputs.logit_rows
        none = np.zeros(0, np.int64)
        own = (inputs.tokens, inputs.positions, inputs.starts, outputs, none if logits is None else logits)
        parts = (*own, *inputs.cache_slots)
        n = len(inputs.first_positions)
        with self._staged(inputs.tables, n) as array:
            for at, part in zip(self._cuts, parts, strict=False):
                array[at : at + len(part)] = part
        return self._views(
            len(inputs.tokens),
            n,
            inputs.tables.shape[2],
            None if len(outputs) == len(inputs.tokens) else len(outputs),
            None if logits is None else len(logits),
            inputs.block_size,
            int(np.diff(inputs.starts).max(initial=1)),
        )

    def fill_decode(self, inputs: StepInputs, size: int) -> None:
        """Copy the inputs of a step with one token per sequence to the card, padded to `size` sequences with ones that
        read and write the spare slot only.
        """
        n = len(inputs.tokens)
        places = (*self._cuts[:2], *self._cuts[5:-1])
        parts = (inputs.tokens, inputs.positions, *inputs.cache_slots)
        spares = (0, 0, *self._spare_slots)
        with self._staged(inputs.tables, size) as array:
            for at, part, spare in zip(places, parts, spares, strict=True):
                array[at : at + n] = part
                array[at + n : at + size] = spare
            array[self._cuts[2] :][: size + 1] = self._counting[: size + 1]
            self._tables(array, size)[:, n:, 0] = self._spare_slots[:, None] // inputs.block_size

    def take_chosen(self, tokens: Tensor) -> None:
        """Insert the tokens that the step before chose: see `rowspan.kernels.ops.pending_token`. Part of every
        graph.
        """
        n = tokens.numel()
        _take_chosen[(triton.cdiv(n, TAKE_BLOCK),)](tokens, self.chosen, n, BLOCK=TAKE_BLOCK)

    def take_chosen_with_torch(self, tokens: Tensor) -> None:
        places = pending_token(tokens).clamp(min=0, max=len(self.chosen) - 1)
        tokens.copy_(torch.where(tokens < 0, self.chosen.index_select(0, places).clamp(min=0), tokens))

    def decode_views(self, size: int, block_size: int) -> CardInputs:
        """The inputs of a graph for so many sequences: all of each block table, since a graph does not know how long
        sequences get.
        """
        return self._views(size, size, self._limits.blocks, None, None, block_size, 1)

    @contextmanager
    def _staged(self, tables: NDArray[np.int32], sequences: int) -> Iterator[NDArray[np.int32]]:
        """The staging buffer, with a step's tables, to be filled; what is in it is then copied."""
        staged = self._staging.take(self._size * INT).view(torch.int32)
        array = staged.numpy()
        _, n, n_blocks = tables.shape
        self._tables(array, sequences)[:, :n, :n_blocks] = tables
        yield array
        end = self._cuts[-1] + self._limits.groups * sequences * self._limits.blocks
        self._staging.copy(staged[:end], self._on_card[:end])

    def _tables(self, array: NDArray[np.int32], sequences: int) -> NDArray[np.int32]:
        """Where the tables of a step of so many sequences are, (groups, sequences, B)."""
        shape = (self._limits.groups, sequences, self._limits.blocks)
        return array[self._cuts[-1] :][: math.prod(shape)].reshape(shape)

    def _views(
        self,
        tokens: int,
        sequences: int,
        n_blocks: int,
        outputs: int | None,
        logits: int | None,
        block_size: int,
        max_query: int,
    ) -> CardInputs:
        def part(index: int, length: int) -> Tensor:
            return self._on_card[self._cuts[index] :][:length]

        groups, width = self._limits.groups, self._limits.blocks
        tables = part(5 + groups, groups * sequences * width).view(groups, sequences, width)[:, :, :n_blocks]
        return CardInputs(
            tokens=part(0, tokens),
            positions=part(1, tokens),
            cache_slots=tuple(part(5 + group, tokens) for group in range(groups)),
            starts=part(2, sequences + 1),
            tables=tables.unbind(),
            output_rows=None if outputs is None else part(3, outputs),
            logit_rows=None if logits is None else part(4, logits),
            block_size=block_size,
            max_query=max_query,
        )


def no_sequences(block_size: int, groups: int = 1) -> StepInputs:
    """A step of nothing."""
    nothing = np.zeros(0, np.int64)
    return StepInputs(nothing, np.zeros(1, np.int64), nothing, np.zeros((groups, 0, 0), np.int32), block_size, nothing)


def to_card(batch: SamplingBatch[NDArray[np.generic]], staging: Staging, device: torch.device) -> SamplingBatch[Tensor]:
    """Copy all arrays at once: a copy takes 10 µs, however small. Memory that is not pinned would be copied only after
    all work given to the card before, with the host waiting.
    """
    arrays: list[NDArray[np.generic]] = []
    batch.map(arrays.append)
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)])
    staged = staging.take(int(starts[-1]))
    joined = staged.numpy()
    for at, array in zip(starts, arrays, strict=False):
        joined[at : at + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    on_card = torch.empty(len(staged), dtype=torch.uint8, device=device)
    staging.copy(staged, on_card)
    places = iter(starts)

    def part(array: NDArray[np.generic]) -> Tensor:
        at = next(places)
        return on_card[at : at + array.nbytes].view(getattr(torch, array.dtype.name)).view(array.shape)

    return batch.map(part)


@triton.jit
def _take_chosen(tokens, chosen, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + at, mask=at < n, other=0)
    here = (at < n) & (token < 0)
    latest = tl.load(chosen + (-1 - token), mask=here)  # `pending_token`, which is no kernel
    tl.store(tokens + at, tl.maximum(latest, 0), mask=here)  # NOT_FINITE: that request ends, others go on
