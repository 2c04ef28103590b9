"""The scheduler against simulated workers that check every plan and every cache entry they read."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.errors import ContextOverflowError, UsageError
from rowspan.kvcache.blocks import BlockManager
from rowspan.scheduler.batch import LATEST, SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.request import FinishReason, Request, SamplingParams
from rowspan.scheduler.scheduler import Scheduler

VOCABULARY = 5
STOP_TOKEN = 4


def next_token(tokens: list[int], seed: int | None) -> int:
    """A stand-in for the model: depends on every token, their order, and the seed."""
    state = seed or 0
    for token in tokens:
        state = (state * 31 + token + 1) % 10007
    return state // 3 % VOCABULARY


def alone(request: Request, context_length: int) -> tuple[list[int], FinishReason]:
    """The oracle: what a request generates, and why it ends, with a machine of its own."""
    tokens, params = list(request.tokens), request.params
    while True:
        tokens.append(next_token(tokens, params.seed))
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
    blocks: Sequence[int] = ()


@dataclass
class Workers:
    """Runs plans in order. A cache slot holds all the tokens its entry depends on: those up to its own position."""

    blocks: BlockManager
    max_sequences: int
    token_budget: int
    prefix_reuse: bool = True
    known: dict[int, Known] = field(default_factory=dict)
    slots: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    number: int = -1

    def run(self, plan: StepPlan) -> StepResult:
        size = self.blocks.block_size
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
            self.known[chunk.seq_id].blocks = chunk.blocks
        tables = {seq_id: set(known.blocks) for seq_id, known in self.known.items()}

        sampled = []
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
            assert chunk.samples == (end == len(known.tokens))
            assert chunk.samples or end % size == 0
            # The table covers the positions, with blocks of its own wherever it writes.
            assert len(chunk.blocks) == len(tables[chunk.seq_id]) == -(-end // size)
            assert all(0 <= block < self.blocks.n_blocks for block in chunk.blocks)
            written = set(chunk.blocks[chunk.position // size :])
            assert not any(written & table for seq_id, table in tables.items() if seq_id != chunk.seq_id)
            for position in range(chunk.position, end):
                slot = (chunk.blocks[position // size], position % size)
                self.slots[slot] = tuple(known.tokens[: position + 1])
            # What attention reads is this sequence's own past.
            for position in range(end):
                slot = (chunk.blocks[position // size], position % size)
                assert self.slots[slot] == tuple(known.tokens[: position + 1])
            if chunk.samples:
                known.tokens.append(next_token(known.tokens, known.seed))
                sampled.append(SampledToken(chunk.seq_id, known.tokens[-1]))
        return StepResult(plan.number, tuple(sampled))


def rig(
    n_blocks: int = 64,
    block_size: int = 4,
    max_sequences: int = 4,
    token_budget: int = 16,
    context_length: int = 100,
    prefix_reuse: bool = True,
    ahead: bool = False,
) -> tuple[Scheduler, Workers]:
    blocks = BlockManager(n_blocks, block_size)
    scheduler = Scheduler(
        blocks,
        max_sequences=max_sequences,
        token_budget=token_budget,
        context_length=context_length,
        prefix_reuse=prefix_reuse,
        ahead=ahead,
    )
    return scheduler, Workers(blocks, max_sequences, token_budget, prefix_reuse)


def request(seq_id: int, prompt: list[int], max_tokens: int = 8, seed: int = 0) -> Request:
    return Request(seq_id, list(prompt), SamplingParams(max_tokens=max_tokens, seed=seed))


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


def random_rig(rng: random.Random) -> tuple[Scheduler, Workers]:
    """Any limits, above all tight ones."""
    block_size = rng.randint(1, 5)
    max_sequences = rng.randint(1, 6)
    n_blocks = rng.randint(2, 24)
    return rig(
        n_blocks=n_blocks,
        block_size=block_size,
        max_sequences=max_sequences,
        token_budget=max_sequences + block_size + rng.choice([0, 1, 5, 20]),
        context_length=rng.randint(2, 2 * n_blocks * block_size),
        prefix_reuse=rng.random() < 0.8,
        ahead=rng.random() < 0.6,
    )


def random_request(rng: random.Random, seq_id: int, longest_prompt: int) -> Request:
    # Few different beginnings, so that prefixes are shared, also in the middle of a block.
    length = rng.randint(1, min(longest_prompt, rng.choice([4, 12, 60])))
    prompt = ([rng.randrange(2)] * rng.randint(0, length) + [0, 1, 2, 3] * length)[:length]
    params = SamplingParams(
        max_tokens=rng.randint(1, 25),
        seed=rng.randrange(2),
        stop_tokens=frozenset({STOP_TOKEN} if rng.random() < 0.5 else ()),
        ignore_eos=rng.random() < 0.3,
        repeat_penalty=rng.choice([1.0, 1.0, 1.0, 1.3]),
    )
    return Request(seq_id, prompt, params)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_everything_ends_with_the_right_tokens_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    scheduler, workers = random_rig(rng)
    depth = rng.randint(1, 4)  # plans in flight at most
    cancel_rate = rng.choice([0.0, 0.02, 0.1])
    pipeline: deque[StepPlan | StepResult] = deque()  # oldest first; what has run already is a result
    expected: dict[int, tuple[list[int], FinishReason]] = {}
    seen: dict[int, list[int]] = {}
    finished: dict[int, FinishReason] = {}
    cancelled: set[int] = set()
    running: set[int] = set()
    arrivals = rng.randint(1, 16)

    def open_requests() -> list[int]:
        return [seq_id for seq_id in expected if seq_id not in finished and seq_id not in cancelled]

    for _ in range(20_000):
        if len(expected) < arrivals and rng.random() < 0.4:
            new = random_request(rng, len(expected), scheduler.context_length - 1)
            expected[new.seq_id] = alone(new, scheduler.context_length)
            scheduler.add(new)
        if rng.random() < cancel_rate and (candidates := open_requests()):
            cancelled.add(victim := rng.choice(candidates))
            assert scheduler.cancel(victim)
            assert not scheduler.cancel(victim)
        if len(pipeline) < depth and rng.random() < 0.8:
            plan = scheduler.step()
            if plan is not None:
                pipeline.append(plan)
                running = running - set(plan.forget) | {new.seq_id for new in plan.new}
                assert sorted(running) == open_requests()[: len(running)]  # nobody is ever overtaken in the queue
            elif not pipeline:
                assert not open_requests()  # or nothing would ever happen again
        # Workers take plans in order, and may be any way ahead of their results' arrival.
        unrun = next((i for i, item in enumerate(pipeline) if isinstance(item, StepPlan)), None)
        if unrun is not None and rng.random() < 0.7:
            issued = pipeline[unrun]
            assert isinstance(issued, StepPlan)
            pipeline[unrun] = workers.run(issued)
        if pipeline and isinstance(result := pipeline[0], StepResult) and rng.random() < 0.7:
            pipeline.popleft()
            for event in scheduler.finish_step(result):
                assert event.seq_id in open_requests()
                assert event.sampled is not None
                seen.setdefault(event.seq_id, []).append(event.sampled.token)
                if event.finish is not None:
                    finished[event.seq_id] = event.finish
        assert scheduler.busy == bool(open_requests())
        if len(expected) == arrivals and not open_requests() and not pipeline:
            break
    else:
        pytest.fail("requests never finished")

    for seq_id, (tokens, reason) in expected.items():
        if seq_id in cancelled:
            assert seen.get(seq_id, []) == tokens[: len(seen.get(seq_id, []))]
        else:
            assert (seen[seq_id], finished[seq_id]) == (tokens, reason)
    stats = scheduler.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert stats.generated_tokens == sum(map(len, seen.values()))


def test_long_requests_in_a_tiny_pool_preempt_and_still_all_finish() -> None:
    scheduler, workers = rig(n_blocks=9, max_sequences=4, context_length=36)
    requests = [request(seq_id, [seq_id % 5], max_tokens=30, seed=seq_id) for seq_id in range(8)]
    expected = {r.seq_id: alone(r, 36)[0] for r in requests}
    for each in requests:
        scheduler.add(each)
    assert finish_all(scheduler, workers) == expected
    assert scheduler.stats().preemptions > 0
    assert requests[0].preemptions == 0  # the oldest never gives way
    assert all(each.cached == 0 for each in requests)  # what they found on their return was their own


def test_admission_leaves_the_running_ones_room_to_grow() -> None:
    scheduler, workers = rig(n_blocks=5)
    scheduler.add(request(0, [1] * 8, max_tokens=8))
    turn(scheduler, workers)
    scheduler.add(request(1, [2] * 8, max_tokens=4))  # its two blocks are free, but then no more than one would be
    scheduler.add(request(2, [3] * 4, max_tokens=4))  # would fit, but must not overtake
    finish_all(scheduler, workers)
    assert scheduler.stats().preemptions == 0


def test_a_pool_smaller_than_the_context_ends_the_answer_instead_of_hanging() -> None:
    scheduler, workers = rig(n_blocks=3, context_length=100)
    scheduler.add(request(0, [1, 2, 3], max_tokens=50))
    assert len(finish_all(scheduler, workers)[0]) == 3 * 4 - 3


def test_the_seventeenth_request_waits_and_then_runs() -> None:
    scheduler, workers = rig(n_blocks=200, max_sequences=16, token_budget=64)
    requests = [request(seq_id, [seq_id % 5, 1, 2], max_tokens=5 + seq_id, seed=seq_id) for seq_id in range(17)]
    expected = {r.seq_id: alone(r, 100)[0] for r in requests}
    for each in requests:
        scheduler.add(each)
    events = turn(scheduler, workers)
    assert {event.seq_id for event in events} == set(range(16))
    assert (scheduler.stats().running, scheduler.stats().waiting) == (16, 1)
    while 0 not in {event.seq_id for event in events if event.finish}:
        events = turn(scheduler, workers)
        assert 16 not in {event.seq_id for event in events}
    assert 16 in {event.seq_id for event in turn(scheduler, workers)}
    finish_all(scheduler, workers)
    assert {r.seq_id: r.tokens[r.prompt_length :] for r in requests} == expected


def test_a_long_prompt_advances_by_whole_blocks_under_full_decode_load() -> None:
    scheduler, workers = rig(n_blocks=200, max_sequences=4, token_budget=8)  # the least budget allowed
    for seq_id in range(3):
        scheduler.add(request(seq_id, [seq_id], max_tokens=60))
    turn(scheduler, workers)
    scheduler.add(request(3, [1, 2, 3, 0] * 10 + [1], max_tokens=1))
    ends: list[int] = []
    while not ends or ends[-1] < 41:
        plan = scheduler.step()
        assert plan is not None
        assert [len(chunk.tokens) for chunk in plan.chunks[:3]] == [1, 1, 1]
        ends += [chunk.position + len(chunk.tokens) for chunk in plan.chunks if chunk.seq_id == 3]
        scheduler.finish_step(workers.run(plan))
    assert ends == [4, 8, 12, 16, 20, 24, 28, 32, 36, 41]


def test_a_prompt_seen_before_is_reused_up_to_its_last_full_block() -> None:
    scheduler, workers = rig()
    prompt = [1, 2, 3, 0, 3, 2, 1, 0]
    first, second, third = request(0, prompt), request(1, prompt), request(2, [*prompt, 1])
    for each in (first, second, third):
        scheduler.add(each)
        finish_all(scheduler, workers)
    assert (first.cached, second.cached, third.cached) == (0, 4, 8)
    stats = scheduler.stats()
    assert (stats.prefix_hits, stats.prompt_tokens) == (12, 25)
    assert stats.blocks_cached > 0


def test_the_next_turn_of_a_chat_reuses_the_answer_too() -> None:
    scheduler, workers = rig()
    first = request(0, [1, 2, 3], max_tokens=10)
    scheduler.add(first)
    finish_all(scheduler, workers)
    second = request(1, [*first.tokens, 2, 2])
    scheduler.add(second)
    finish_all(scheduler, workers)
    assert second.cached == 12  # 13 tokens, the last of them sampled but never computed


def test_without_prefix_reuse_nothing_is_shared() -> None:
    scheduler, workers = rig(prefix_reuse=False)
    for seq_id in range(2):
        scheduler.add(request(seq_id, [1] * 12))
        finish_all(scheduler, workers)
    assert (scheduler.stats().prefix_hits, scheduler.stats().blocks_cached) == (0, 0)


def test_cancelling_in_flight_frees_at_once_and_commits_nothing() -> None:
    scheduler, workers = rig()
    scheduler.add(request(0, [1] * 12))
    plan = scheduler.step()
    assert plan is not None
    assert scheduler.stats().blocks_used == 3
    assert scheduler.cancel(0)
    assert scheduler.stats().blocks_used == 0
    assert not scheduler.cancel(0)
    scheduler.add(request(1, [2] * 12))
    overwriting = scheduler.step()
    assert overwriting is not None
    assert overwriting.forget == (0,)
    assert scheduler.finish_step(workers.run(plan)) == []
    assert scheduler.finish_step(workers.run(overwriting)) != []
    scheduler.cancel(1)
    again = request(2, [1] * 13)
    scheduler.add(again)
    finish_all(scheduler, workers)
    assert again.cached == 0


def test_a_sequence_id_may_be_used_again_while_its_cancelled_step_is_still_in_flight() -> None:
    scheduler, workers = rig()
    scheduler.add(request(0, [1] * 6))
    stale = scheduler.step()
    assert stale is not None
    scheduler.cancel(0)
    again = request(0, [2] * 6)
    expected = alone(again, 100)[0]
    scheduler.add(again)
    fresh = scheduler.step()
    assert fresh is not None
    assert scheduler.finish_step(workers.run(stale)) == []
    scheduler.finish_step(workers.run(fresh))
    finish_all(scheduler, workers)
    assert again.tokens[6:] == expected


def test_a_stop_token_is_reported_and_ends_the_request_unless_ignored() -> None:
    scheduler, workers = rig()
    prompt = next([0, n] for n in range(100) if next_token([0, n], 0) == STOP_TOKEN)
    stop = frozenset({STOP_TOKEN})
    scheduler.add(Request(0, list(prompt), SamplingParams(max_tokens=5, seed=0, stop_tokens=stop)))
    scheduler.add(Request(1, list(prompt), SamplingParams(max_tokens=5, seed=0, stop_tokens=stop, ignore_eos=True)))
    scheduler.add(Request(2, list(prompt), SamplingParams(max_tokens=1, seed=0)))
    events = {event.seq_id: event for event in turn(scheduler, workers)}
    assert all(event.sampled and event.sampled.token == STOP_TOKEN for event in events.values())
    assert [events[n].finish for n in range(3)] == [FinishReason.STOP, None, FinishReason.LENGTH]


def test_after_a_lost_worker_everything_starts_from_nothing() -> None:
    scheduler, workers = rig(max_sequences=2)
    for seq_id in range(3):
        scheduler.add(request(seq_id, [1] * 12))
    turn(scheduler, workers)
    lost = scheduler.step()
    assert lost is not None
    scheduler.cancel(1)
    assert scheduler.abort_all() == [0, 2]
    assert not scheduler.busy
    assert scheduler.step() is None
    assert scheduler.finish_step(StepResult(lost.number, ())) == []
    assert (scheduler.stats().blocks_used, scheduler.stats().blocks_cached) == (0, 0)
    respawned = Workers(workers.blocks, 2, 16, number=lost.number)
    again = request(3, [1] * 12)
    expected = alone(again, 100)[0]
    scheduler.add(again)
    assert finish_all(scheduler, respawned) == {3: expected}
    assert again.cached == 0


def test_idle_means_no_plan() -> None:
    scheduler, workers = rig()
    assert scheduler.step() is None
    scheduler.add(request(0, [1, 2]))
    plan = scheduler.step()
    assert plan is not None
    assert scheduler.step() is None  # its only request is in flight
    scheduler.finish_step(workers.run(plan))
    finish_all(scheduler, workers)
    assert scheduler.step() is None  # something to forget, nothing to compute


class Ahead:
    """A scheduler that plans ahead and its workers, of whom a step is under way all the time."""

    def __init__(self, *requests: Request, **limits: int) -> None:
        self.scheduler, self.workers = rig(**limits, ahead=True)  # type: ignore[arg-type]
        for each in requests:
            self.scheduler.add(each)
        self.under_way: deque[StepPlan] = deque()

    def plan(self) -> list[list[tuple[int, tuple[int, ...]]]]:
        """What is planned until there are two steps under way, as ids and tokens."""
        planned = []
        while len(self.under_way) < 2 and (plan := self.scheduler.step()) is not None:
            self.under_way.append(plan)
            planned.append([(chunk.seq_id, chunk.tokens) for chunk in plan.chunks])
        return planned

    def finish(self) -> list[TokenEvent]:
        """The older of them."""
        return self.scheduler.finish_step(self.workers.run(self.under_way.popleft()))


def test_decoding_is_planned_one_step_ahead() -> None:
    ahead = Ahead(request(0, [1, 2], max_tokens=5), request(1, [3], max_tokens=4))
    assert ahead.plan() == [[(0, (1, 2)), (1, (3,))], [(0, (LATEST,)), (1, (LATEST,))]]
    assert ahead.scheduler.step() is None, "one step ahead, no more"
    ahead.finish()
    assert ahead.plan() == [[(0, (LATEST,)), (1, (LATEST,))]]
    ahead.finish()
    assert ahead.plan() == [[(0, (LATEST,)), (1, (LATEST,))]]
    ahead.finish()
    assert ahead.plan() == [[(0, (LATEST,))]], "the other one has its four tokens by then"
    assert [event.finish for event in ahead.finish()] == [None, FinishReason.LENGTH]
    assert ahead.plan() == []
    assert [event.finish for event in ahead.finish()] == [FinishReason.LENGTH]
    assert not ahead.scheduler.busy
    assert not ahead.under_way, "nothing was computed in vain"


def test_what_was_computed_behind_a_stop_token_is_dropped() -> None:
    prompt = next([0, n] for n in range(100) if next_token([0, n], 0) == STOP_TOKEN)
    params = SamplingParams(max_tokens=9, seed=0, stop_tokens=frozenset({STOP_TOKEN}))
    ahead = Ahead(Request(0, list(prompt), params), request(1, [1]), n_blocks=12)
    ahead.plan()
    assert [event.finish for event in ahead.finish()] == [FinishReason.STOP, None]
    assert ahead.scheduler.stats().blocks_used == 1
    ahead.scheduler.add(again := request(2, [*prompt, 0, 1, 2], max_tokens=3))
    ahead.plan()
    assert [event.seq_id for event in ahead.finish()] == [1]
    while ahead.scheduler.busy:
        ahead.plan()
        ahead.finish()
    assert again.cached == 0, "nothing of it is offered to others"
    assert again.tokens[5:] == alone(request(2, [*prompt, 0, 1, 2], max_tokens=3), 100)[0]


@pytest.mark.parametrize(
    "other",
    [
        Request(1, [2], SamplingParams(max_tokens=9, seed=0, repeat_penalty=1.1)),
        Request(1, [2], SamplingParams(max_tokens=9, seed=0, presence_penalty=0.1)),
        Request(1, [2], SamplingParams(max_tokens=9, seed=0, frequency_penalty=-0.1)),
        request(1, [0, 1, 2, 3] * 15),  # its prompt takes more steps
    ],
)
def test_nobody_is_left_behind(other: Request) -> None:
    ahead = Ahead(request(0, [1]), other)
    for _ in range(3):
        assert len(ahead.plan()) == 1
        assert not ahead.under_way[0].ahead
        assert {chunk.seq_id for chunk in ahead.under_way[0].chunks} == {0, 1}
        ahead.finish()


def test_whoever_arrives_waits_for_one_step_more_at_most() -> None:
    ahead = Ahead(request(0, [1], max_tokens=50))
    ahead.plan()
    ahead.scheduler.add(request(1, [2]))
    ahead.finish()
    assert ahead.plan() == [], "the step ahead was planned before; the next one is planned with the newcomer"
    ahead.finish()
    (_, decoding), arrived = ahead.plan()[0]
    assert len(decoding) == 1
    assert arrived == (1, (2,))


def test_a_cache_without_room_is_planned_step_by_step() -> None:
    asked = [request(0, [1] * 7, max_tokens=9), request(1, [2] * 4, max_tokens=9)]
    expected = [each.tokens + alone(each, 16)[0] for each in asked]
    ahead = Ahead(*asked, n_blocks=4)
    plans_ahead = 0
    while ahead.scheduler.busy:
        ahead.plan()
        plans_ahead += ahead.under_way[-1].ahead
        ahead.finish()
    assert [each.tokens for each in asked] == expected
    assert ahead.scheduler.stats().preemptions > 0
    assert plans_ahead > 0


def test_steps_given_back_are_computed_again_the_one_ahead_too() -> None:
    asked = [request(0, [1, 2, 3]), request(1, [2])]
    expected = [each.tokens + alone(each, 80)[0] for each in asked]
    ahead = Ahead(*asked)
    ahead.plan()
    ahead.finish()
    ahead.plan()
    lost = [ahead.under_way.popleft() for _ in range(2)]
    assert [plan.ahead for plan in lost] == [True, True]
    ahead.scheduler.abandon_steps()
    ahead.scheduler.resize(20)
    known, number = ahead.workers.known, lost[-1].number
    ahead.workers = Workers(BlockManager(20, 4), 4, 16, known=known, number=number)
    while ahead.scheduler.busy:
        ahead.plan()
        ahead.finish()
    assert [each.tokens for each in asked] == expected


@pytest.mark.parametrize(
    ("prompt_length", "max_tokens", "error"),
    [
        (99, 1, None),
        (100, 1, ContextOverflowError),
        (101, 1, ContextOverflowError),
        (0, 1, UsageError),
        (5, 0, UsageError),
    ],
)
def test_what_cannot_be_answered_is_refused(
    prompt_length: int, max_tokens: int, error: type[UsageError] | None
) -> None:
    scheduler, workers = rig()
    asked = request(0, [1] * prompt_length, max_tokens=max_tokens)
    if error is None:
        scheduler.add(asked)
        assert len(finish_all(scheduler, workers)[0]) == 1
        return
    with pytest.raises(error) as caught:
        scheduler.add(asked)
    assert caught.value.fix
    assert not scheduler.busy


def test_a_prompt_beyond_the_pool_is_refused() -> None:
    scheduler, _ = rig(n_blocks=3, context_length=100)
    with pytest.raises(ContextOverflowError, match="12"):
        scheduler.add(request(0, [1] * 12))


def test_a_sequence_id_in_use_is_refused() -> None:
    scheduler, _ = rig()
    scheduler.add(request(0, [1]))
    with pytest.raises(ValueError, match="0"):
        scheduler.add(request(0, [2]))


@pytest.mark.parametrize(("max_sequences", "token_budget"), [(0, 16), (4, 7), (13, 16)])
def test_limits_that_could_starve_a_prompt_are_refused(max_sequences: int, token_budget: int) -> None:
    with pytest.raises(UsageError, match="tokens"):
        rig(max_sequences=max_sequences, token_budget=token_budget)
