"""What a card gets of a step, and decoding from graphs: as a whole, against the plain way."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from kit import triton_device  # noqa: F401  # before any kernel
from kit.fake_card import CPU, FakeRecorder
from torch import Tensor

from rowspan.kernels.ops import StepInputs, StepLimits, pending_token
from rowspan.kernels.triton.graphs import DecodeGraphs, graph_sizes
from rowspan.kernels.triton.inputs import TAKE_BLOCK, CardInputs, InputBuffers, Staging, no_sequences
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.step_inputs import hidden_states, step_inputs

BLOCK_SIZE = 4
LIMITS = StepLimits(tokens=24, logits=9, blocks=5, block_size=BLOCK_SIZE)
N_SLOTS = 40 * BLOCK_SIZE
TWO_GROUPS = replace(LIMITS, groups=2)


def random_step(seed: int, *, decode: bool = False, hidden: bool = False, groups: int = 1) -> StepInputs:
    rng = random.Random(seed)
    pools = [rng.sample(range(40), 40) for _ in range(groups)]
    chunks = []
    for seq_id in range(rng.randint(1, 7)):
        length = 1 if decode else rng.randint(1, 3)
        position = rng.randint(0, LIMITS.blocks * BLOCK_SIZE - length)
        table = [pool.pop() for pool in pools for _ in range(-(-(position + length) // BLOCK_SIZE))]
        chunks.append(
            Chunk(
                seq_id,
                tuple(rng.choices(range(99), k=length)),
                position,
                table,
                samples=1 if decode else rng.randint(0, length),
                hidden=rng.randint(0, length) if hidden else 0,
            )
        )
    return step_inputs(StepPlan(0, tuple(chunks)), BLOCK_SIZE, n_groups=groups)


def slots_read(inputs: CardInputs, sequence: int, group: int = 0) -> list[int]:
    """By the last token of a sequence."""
    last = int(inputs.positions[int(inputs.starts[sequence + 1]) - 1])
    blocks = inputs.tables[group][sequence].tolist()
    return [blocks[p // inputs.block_size] * inputs.block_size + p % inputs.block_size for p in range(last + 1)]


@pytest.mark.parametrize("seed", range(20))
def test_a_step_gives_back_what_each_chunk_wants_of_its_last_tokens(seed: int) -> None:
    rng = random.Random(seed)
    chunks, logits, hidden, row = [], list[int](), list[int](), 0
    for seq_id in range(rng.randint(1, 6)):
        length = rng.randint(1, 5)
        wants = rng.randint(0, length), rng.choice([0, rng.randint(0, length)])
        chunks.append(Chunk(seq_id, (7,) * length, 0, (seq_id,), *wants))
        row += length
        logits += range(row - wants[0], row)
        hidden += range(row - wants[1], row)
    plan = StepPlan(0, tuple(chunks))
    inputs = step_inputs(plan, 8)
    assert inputs.output_rows.tolist() == sorted({*logits, *hidden})
    of_logits = inputs.output_rows if inputs.logit_rows is None else inputs.output_rows[inputs.logit_rows]
    assert of_logits.tolist() == logits
    assert (inputs.hidden_rows is None) == (not hidden)
    if inputs.hidden_rows is None:
        assert hidden_states(plan, None) == ()
    else:
        assert inputs.output_rows[inputs.hidden_rows].tolist() == hidden
        given = hidden_states(plan, np.array(hidden, np.float32)[:, None])
        wanting = [chunk for chunk in chunks if chunk.hidden]
        assert [each.seq_id for each in given] == [chunk.seq_id for chunk in wanting]
        assert [len(each.rows) for each in given] == [chunk.hidden for chunk in wanting]
        assert np.concatenate([each.rows for each in given])[:, 0].tolist() == hidden


@pytest.mark.parametrize("limits", [LIMITS, TWO_GROUPS], ids=["one group", "two groups"])
@pytest.mark.parametrize("seed", range(20))
def test_a_card_gets_what_the_plan_says(seed: int, limits: StepLimits) -> None:
    buffers = InputBuffers(CPU, limits, [N_SLOTS] * limits.groups)
    buffers.fill(random_step(seed + 1000, groups=limits.groups))  # leaves something behind
    inputs = random_step(seed, hidden=seed % 2 == 1, groups=limits.groups)
    card = buffers.fill(inputs)
    for name in ("tokens", "positions", "starts"):
        assert getattr(card, name).tolist() == getattr(inputs, name).tolist()
    assert [slots.tolist() for slots in card.cache_slots] == inputs.cache_slots.tolist()
    outputs = inputs.output_rows.tolist()
    assert (range(len(inputs.tokens)) if card.output_rows is None else card.output_rows.tolist()) == (
        range(len(outputs)) if card.output_rows is None else outputs
    )
    assert (card.logit_rows is None) == (inputs.logit_rows is None)
    if card.logit_rows is not None and inputs.logit_rows is not None:
        assert card.logit_rows.tolist() == inputs.logit_rows.tolist()
    assert card.max_query == np.diff(inputs.starts).max()
    for group, sequence in product(range(limits.groups), range(len(inputs.first_positions))):
        read = slots_read(card, sequence, group)
        assert read == inputs.slots[group, sequence, : len(read)].tolist()
        assert read[-1] == inputs.cache_slots[group, inputs.starts[sequence + 1] - 1]


@pytest.mark.parametrize("limits", [LIMITS, TWO_GROUPS], ids=["one group", "two groups"])
@pytest.mark.parametrize("seed", range(20))
def test_sequences_that_fill_up_a_graph_touch_the_spare_slot_only(seed: int, limits: StepLimits) -> None:
    spares = [N_SLOTS, N_SLOTS // 2][: limits.groups]
    buffers = InputBuffers(CPU, limits, spares)
    inputs = random_step(seed, decode=True, groups=limits.groups)
    n, size = len(inputs.tokens), len(inputs.tokens) + seed % 3
    buffers.fill_decode(inputs, size)
    card = buffers.decode_views(size, BLOCK_SIZE)
    for group, spare in enumerate(spares):
        assert card.cache_slots[group].tolist() == [*inputs.cache_slots[group].tolist(), *[spare] * (size - n)]
        assert [slots_read(card, sequence, group) for sequence in range(n, size)] == [[spare]] * (size - n)
        for sequence in range(n):
            read = slots_read(card, sequence, group)
            assert read == inputs.slots[group, sequence, : len(read)].tolist()


def test_tokens_that_the_step_before_chose_are_put_in_their_places() -> None:
    buffers = InputBuffers(CPU, replace(LIMITS, tokens=2 * TAKE_BLOCK, logits=LIMITS.tokens), [N_SLOTS])
    buffers.chosen.copy_(torch.arange(100, 100 + LIMITS.tokens))
    tokens = torch.arange(TAKE_BLOCK + 9, dtype=torch.int32)
    tokens[[0, 5, TAKE_BLOCK + 3]] = torch.tensor([-1, -3, -LIMITS.tokens], dtype=torch.int32)
    expected = tokens.clone()
    expected[[0, 5, TAKE_BLOCK + 3]] = torch.tensor([100, 102, 99 + LIMITS.tokens], dtype=torch.int32)
    again = tokens.clone()
    buffers.take_chosen(tokens)
    buffers.take_chosen_with_torch(again)
    assert torch.equal(tokens, expected)
    assert torch.equal(again, expected)


def test_what_a_card_still_copies_is_not_overwritten() -> None:
    staging = Staging(CPU)
    first, second = staging.take(8), staging.take(8)
    assert first.data_ptr() != second.data_ptr()
    first.fill_(1)
    second.fill_(2)
    assert staging.take(100).nbytes == 100
    assert second.eq(2).all()
    assert staging.take(8).data_ptr() == second.data_ptr()


@pytest.mark.parametrize("most", [1, 2, 3, 8, 16, 17, 64, 100, 512])
def test_there_is_a_graph_for_every_number_and_few_rows_are_idle(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for sequences in range(1, most + 1):
        size = next(size for size in sizes if size >= sequences)
        assert size - sequences <= max(1, sequences - 1, 1) if sequences < 8 else size < 1.3 * sequences + 8


def test_graphs_compute_what_the_plain_way_does() -> None:
    cache = torch.zeros(N_SLOTS + 1)

    def model(inputs: CardInputs, buffers: InputBuffers) -> Tensor:
        """A running sum over what each sequence's positions hold, written to its own slot first."""
        buffers.take_chosen(inputs.tokens)
        cache[inputs.cache_slots[0]] = inputs.tokens.float()
        return torch.tensor([cache[slots_read(inputs, s)].sum() for s in range(len(inputs.tables[0]))])[:, None]

    recorder = FakeRecorder()
    buffers = InputBuffers(CPU, LIMITS, [N_SLOTS])
    buffers.fill_decode(no_sequences(BLOCK_SIZE), LIMITS.logits)
    graphs = DecodeGraphs(
        recorder, graph_sizes(LIMITS.logits), lambda size: model(buffers.decode_views(size, BLOCK_SIZE), buffers)
    )
    other = InputBuffers(CPU, LIMITS, [N_SLOTS])
    assert recorder.rows == [9, 8, 4, 2, 1], "the largest first"
    assert not cache[:-1].any(), "recording writes nothing that anyone reads"
    for seed in range(30):
        inputs = random_step(seed, decode=True)
        inputs.tokens[seed % 2 :: 2] = pending_token(np.arange(len(inputs.tokens)))[seed % 2 :: 2]
        buffers.chosen.random_(100)
        other.chosen.copy_(buffers.chosen)
        size = graphs.size_for(len(inputs.tokens))
        assert size is not None
        before = cache.clone()
        buffers.fill_decode(inputs, size)
        result = graphs.replay(size, len(inputs.tokens))
        assert result is not None
        replayed, after = result.clone(), cache[:-1].clone()
        cache.copy_(before)
        assert torch.equal(replayed, model(other.fill(inputs), other))
        assert torch.equal(after, cache[:-1])
    assert graphs.size_for(10) is None
