"""A step's inputs on the card: one staging buffer, one copy, always to the same place, as captured graphs need. Tokens
that the step before chose are on the card already, and are put in their places there."""

from __future__ import annotations

from collections.abc import Iterator
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
    cache_slots: Tensor  # (T,)
    starts: Tensor  # (sequences + 1,)
    blocks: Tensor  # (sequences, B): rows may lie apart
    output_rows: Tensor | None  # (N,); None: all of them
    block_size: int
    max_query: int  # most tokens of one sequence

    @cached_property
    def outputs_only(self) -> CardInputs:
        """As that of `StepInputs`."""
        rows = self.output_rows
        if rows is None:
            return self
        return replace(
            self,
            tokens=self.tokens[rows],
            positions=self.positions[rows],
            cache_slots=self.cache_slots[rows],
            starts=torch.searchsorted(rows, self.starts, out_int32=True),
            output_rows=None,
            max_query=min(self.max_query, len(rows)),
        )


class Staging:
    """Memory of the host that a card copies from by itself, while the host fills more of it for the next step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * TURNS
        self._copied: list[torch.cuda.Event | None] = [None] * TURNS
        self._turn = 0

    def take(self, nbytes: int) -> Tensor:
        """Some of it, uint8, with zeros or what was there before: to be filled, and handed to `copy`."""
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
        """Have the card copy what was filled last."""
        to.copy_(filled, non_blocking=True)
        if self._device.type == "cuda":
            self._copied[self._turn] = event = torch.cuda.Event()
            event.record()


class InputBuffers:
    """Memory for the inputs of any step within the limits."""

    def __init__(self, device: torch.device, limits: StepLimits, n_slots: int) -> None:
        """Args: n_slots: of the cache; one more than these is there, for sequences that only fill up a graph."""
        self._limits = limits
        self._spare_slot = n_slots
        lengths = (limits.tokens, limits.tokens, limits.tokens, limits.tokens + 1, limits.tokens)
        self._cuts = [0, *np.cumsum(lengths).tolist()]
        size = self._cuts[-1] + limits.tokens * limits.blocks
        self._size = size
        self._on_card = torch.zeros(size, dtype=torch.int32, device=device)
        self.chosen = torch.zeros(limits.outputs, dtype=torch.int32, device=device)
        self._staging = Staging(device)
        self._counting = np.arange(limits.tokens + 1, dtype=np.int32)

    def fill(self, inputs: StepInputs) -> CardInputs:
        """Of any step."""
        parts = (inputs.tokens, inputs.positions, inputs.cache_slots, inputs.starts, inputs.output_rows)
        with self._staged(inputs.blocks, len(inputs.blocks)) as array:
            for at, part in zip(self._cuts, parts, strict=False):
                array[at : at + len(part)] = part
        return self._views(
            len(inputs.tokens),
            len(inputs.blocks),
            inputs.blocks.shape[1],
            None if len(inputs.output_rows) == len(inputs.tokens) else len(inputs.output_rows),
            inputs.block_size,
            int(np.diff(inputs.starts).max(initial=1)),
        )

    def fill_decode(self, inputs: StepInputs, size: int) -> None:
        """Of a step of one token a sequence, filled up to `size` sequences with ones that read and write the spare
        slot only."""
        n = len(inputs.tokens)
        parts = ((inputs.tokens, 0), (inputs.positions, 0), (inputs.cache_slots, self._spare_slot))
        with self._staged(inputs.blocks, size) as array:
            for at, (part, spare) in zip(self._cuts, parts, strict=False):
                array[at : at + n] = part
                array[at + n : at + size] = spare
            array[self._cuts[3] :][: size + 1] = self._counting[: size + 1]
            table = array[self._cuts[-1] :].reshape(-1, self._limits.blocks)
            table[n:size, 0] = self._spare_slot // inputs.block_size

    def take_chosen(self, tokens: Tensor) -> None:
        """Put in what the step before chose: see `rowspan.kernels.ops.pending_token`. Part of every graph."""
        n = tokens.numel()
        _take_chosen[(triton.cdiv(n, TAKE_BLOCK),)](tokens, self.chosen, n, BLOCK=TAKE_BLOCK)

    def take_chosen_with_torch(self, tokens: Tensor) -> None:
        places = pending_token(tokens).clamp(min=0, max=len(self.chosen) - 1)
        tokens.copy_(torch.where(tokens < 0, self.chosen.index_select(0, places), tokens))

    def decode_views(self, size: int, block_size: int) -> CardInputs:
        """What a graph of so many sequences reads: all of each table, since it does not know how long they get."""
        return self._views(size, size, self._limits.blocks, None, block_size, 1)

    @contextmanager
    def _staged(self, blocks: NDArray[np.int32], sequences: int) -> Iterator[NDArray[np.int32]]:
        """The staging buffer, with a step's tables, to be filled; what is in it is then copied."""
        staged = self._staging.take(self._size * INT).view(torch.int32)
        array = staged.numpy()
        array[self._cuts[-1] :].reshape(-1, self._limits.blocks)[: len(blocks), : blocks.shape[1]] = blocks
        yield array
        end = self._cuts[-1] + sequences * self._limits.blocks
        self._staging.copy(staged[:end], self._on_card[:end])

    def _views(
        self, tokens: int, sequences: int, n_blocks: int, outputs: int | None, block_size: int, max_query: int
    ) -> CardInputs:
        def part(index: int, length: int) -> Tensor:
            return self._on_card[self._cuts[index] :][:length]

        table = part(5, sequences * self._limits.blocks).view(sequences, self._limits.blocks)
        return CardInputs(
            tokens=part(0, tokens),
            positions=part(1, tokens),
            cache_slots=part(2, tokens),
            starts=part(3, sequences + 1),
            blocks=table[:, :n_blocks],
            output_rows=None if outputs is None else part(4, outputs),
            block_size=block_size,
            max_query=max_query,
        )


def no_sequences(block_size: int) -> StepInputs:
    """A step of nothing."""
    nothing = np.zeros(0, np.int64)
    return StepInputs(nothing, np.zeros(1, np.int64), nothing, np.zeros((0, 0), np.int32), block_size, nothing)


def to_card(batch: SamplingBatch[NDArray[np.generic]], staging: Staging, device: torch.device) -> SamplingBatch[Tensor]:
    """All arrays in one copy: a copy takes 10 µs, however little it copies. Memory that is not pinned would be copied
    once all that the card has been told is done, with the host waiting for it."""
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
    tl.store(tokens + at, tl.load(chosen + (-1 - token), mask=here), mask=here)  # `pending_token`, which is no kernel
