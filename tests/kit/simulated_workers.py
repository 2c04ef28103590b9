"""Simulated workers: a model whose tokens depend on all that they see, and a cache whose entries are checked as they
are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rowspan.kvcache.groups import CacheGroup, CacheLayout
from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import LATEST, HiddenStates, SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.request import FinishReason, Request, SamplingParams, WantedStates
from rowspan.scheduler.scheduler import Scheduler
from rowspan.worker.logits_processors import needs_last_token

VOCABULARY = 5
STOP_TOKEN = 4


Windows = tuple[int | None, ...]
"""Of a model's groups of layers; None: the group sees everything."""


def next_token(tokens: Sequence[int], seed: int | None, windows: Windows = (None,)) -> int:
    """A stand-in for the model: depends on every token that the last one sees, their order, and the seed."""
    state = seed or 0
    for token in tokens[-seen(windows) :]:
        state = (state * 31 + token + 1) % 10007
    return state // 3 % VOCABULARY


def seen(windows: Windows) -> int:
    """Tokens that one sees, itself included; 0: all."""
    return 0 if None in windows else max(window for window in windows if window is not None)


def states_of(tokens: Sequence[int], seed: int | None) -> NDArray[np.float32]:
    """A stand-in for hidden states, (tokens, 2): each depends on all tokens up to its own."""
    rows = [(next_token(list(tokens[: n + 1]), seed), n) for n in range(len(tokens))]
    return np.array(rows, np.float32)


def alone(request: Request, context_length: int, windows: Windows = (None,)) -> tuple[list[int], FinishReason]:
    """The oracle: what a request generates, and why it ends, with a machine of its own."""
    tokens, params = list(request.tokens), request.params
    while True:
        tokens.append(next_token(tokens, params.seed, windows))
        if tokens[-1] in params.stop_tokens and not params.ignore_eos:
            return tokens[request.prompt_length :], FinishReason.STOP
        if len(tokens) - request.prompt_length == params.max_tokens or len(tokens) == context_length:
            return tokens[request.prompt_length :], FinishReason.LENGTH


@dataclass
class Known:
    """What a worker remembers of a sequence."""

    tokens: list[int]
    prompt_length: int
    seed: int | None
    computed: int | None = None
    tables: Sequence[Sequence[int]] = ()  # of each group


@dataclass
class Workers:
    """Runs plans in order. A cache slot holds all the tokens its entry depends on: those up to its own position."""

    cache: CacheManager
    max_sequences: int
    token_budget: int
    prefix_reuse: bool = True
    known: dict[int, Known] = field(default_factory=dict)
    slots: dict[tuple[int, int, int], tuple[int, ...]] = field(default_factory=dict)
    number: int = -1
    wanted: dict[int, WantedStates] = field(default_factory=dict)  # by sequences that ask for them

    def run(self, plan: StepPlan) -> StepResult:
        layout = self.cache.layout
        size, groups = layout.block_size, layout.groups
        assert plan.number == self.number + 1
        self.number = plan.number
        for seq_id in plan.forget:
            del self.known[seq_id]
        for new in plan.new:
            assert new.seq_id not in self.known
            self.known[new.seq_id] = Known(list(new.tokens), new.prompt_length, new.params.seed)

        assert plan.chunks
        assert len({chunk.seq_id for chunk in plan.chunks}) == len(plan.chunks)
        assert len(self.known) <= self.max_sequences
        assert sum(len(chunk.tokens) for chunk in plan.chunks) <= self.token_budget
        assert {new.seq_id for new in plan.new} <= {chunk.seq_id for chunk in plan.chunks}
        for chunk in plan.chunks:
            n = len(chunk.blocks) // len(groups)
            self.known[chunk.seq_id].tables = [chunk.blocks[at * n : at * n + n] for at in range(len(groups))]
        positions = {chunk.seq_id: chunk.position for chunk in plan.chunks}
        needed = {  # blocks that hold what is to be read, by group
            seq_id: [
                table[group.first_seen(positions.get(seq_id, known.computed or 0)) // size :]
                for group, table in zip(groups, known.tables, strict=True)
            ]
            for seq_id, known in self.known.items()
        }

        sampled, hidden = list[SampledToken](), list[HiddenStates]()
        for chunk in plan.chunks:
            known = self.known[chunk.seq_id]
            end = chunk.position + len(chunk.tokens)
            # In order, every position once; a life starts at 0, or after reused blocks.
            if known.computed is None:
                assert chunk.position % size == 0
                assert self.prefix_reuse or chunk.position == 0
            else:
                assert chunk.position == known.computed
            known.computed = end
            assert chunk.tokens
            if chunk.tokens == (LATEST,):
                assert end == len(known.tokens)
                assert end > known.prompt_length
            else:
                assert list(chunk.tokens) == known.tokens[chunk.position : end]
            complete = end == len(known.tokens)
            wanted = self.wanted.get(chunk.seq_id)
            if wanted is None:
                assert (chunk.samples, chunk.hidden) == (complete, 0)
            elif wanted is WantedStates.ALL:
                assert (chunk.samples, chunk.hidden) == (0, len(chunk.tokens))
            else:
                assert (chunk.samples, chunk.hidden) == (0, complete)
            assert complete or end % size == 0
            # The tables cover the positions, with blocks of their own wherever they are written.
            assert len(chunk.blocks) == len(groups) * -(-end // size)
            for at, (group, table) in enumerate(zip(groups, known.tables, strict=True)):
                assert all(0 <= block < self.n_blocks[at] for block in table)
                mine = needed[chunk.seq_id][at]
                assert len(set(mine)) == len(mine)
                written = set(table[chunk.position // size :])
                for seq_id, others in needed.items():
                    assert seq_id == chunk.seq_id or not written & set(others[at])
                for position in range(chunk.position, end):
                    self.slots[at, table[position // size], position % size] = tuple(known.tokens[: position + 1])
                # What attention reads is this sequence's own past.
                for position in range(group.first_seen(chunk.position), end):
                    slot = (at, table[position // size], position % size)
                    assert self.slots[slot] == tuple(known.tokens[: position + 1])
            if chunk.samples:
                known.tokens.append(next_token(self.read(known, end), known.seed, self.windows))
                sampled.append(SampledToken(chunk.seq_id, known.tokens[-1]))
            if chunk.hidden:
                rows = states_of(known.tokens[:end], known.seed)[end - chunk.hidden :]
                hidden.append(HiddenStates(chunk.seq_id, rows))
        return StepResult(plan.number, tuple(sampled), tuple(hidden))

    @property
    def windows(self) -> Windows:
        return tuple(group.window for group in self.cache.layout.groups)

    @property
    def n_blocks(self) -> Sequence[int]:
        """Of each group."""
        return [pool.n_blocks for pool in self.cache.pools]

    def read(self, known: Known, end: int) -> list[int]:
        """The tokens that the one before position `end` sees, from the cache of the group that sees most."""
        widths = [window or end for window in self.windows]
        at = widths.index(max(widths))
        group, table = self.cache.layout.groups[at], known.tables[at]
        size = self.cache.block_size
        positions = range(group.first_seen(end - 1), end)
        return [self.slots[at, table[position // size], position % size][-1] for position in positions]


def rig(
    n_blocks: int = 64,
    block_size: int = 4,
    max_sequences: int = 4,
    token_budget: int = 16,
    context_length: int = 100,
    prefix_reuse: bool = True,
    ahead: bool = False,
    windows: Windows = (None,),
) -> tuple[Scheduler, Workers]:
    groups = tuple(CacheGroup(window) for window in windows)
    cache = CacheManager(CacheLayout(groups, block_size, max(1, max_sequences), token_budget), n_blocks)
    scheduler = Scheduler(
        cache,
        max_sequences=max_sequences,
        token_budget=token_budget,
        context_length=context_length,
        prefix_reuse=prefix_reuse,
        ahead=ahead,
    )
    return scheduler, Workers(cache, max_sequences, token_budget, prefix_reuse)


def request(seq_id: int, prompt: list[int], max_tokens: int = 8, seed: int = 0, priority: int = 0) -> Request:
    return Request(seq_id, list(prompt), SamplingParams(max_tokens=max_tokens, seed=seed, priority=priority))


def with_params(
    seq_id: int, prompt: Sequence[int], params: SamplingParams, states: WantedStates | None = None
) -> Request:
    if states is not None:
        params = replace(params, max_tokens=0)
    return Request(seq_id, list(prompt), params, needs_last_token(params), states)


def turn(scheduler: Scheduler, workers: Workers) -> list[TokenEvent]:
    """One step, there and back."""
    plan = scheduler.step()
    assert plan is not None
    return scheduler.finish_step(workers.run(plan))


def finish_all(scheduler: Scheduler, workers: Workers) -> dict[int, list[int]]:
    generated: dict[int, list[int]] = {}
    while scheduler.busy:
        for event in turn(scheduler, workers):
            assert event.sampled is not None
            generated.setdefault(event.seq_id, []).append(event.sampled.token)
    return generated
