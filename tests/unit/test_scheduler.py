"""The scheduler against simulated workers that check every plan and every cache entry they read."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.simulated_workers import (
    STOP_TOKEN,
    Windows,
    Workers,
    alone,
    finish_all,
    next_token,
    request,
    rig,
    states_of,
    turn,
    with_params,
)
from numpy.typing import NDArray

from rowspan.errors import ContextOverflowError, UsageError
from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import LATEST, SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.request import FinishReason, Request, SamplingParams, WantedStates


class Act(Enum):
    """What can happen next while requests are served."""

    ARRIVE = auto()
    PLAN = auto()
    RUN = auto()  # workers run the oldest plan that they have not run
    FINISH = auto()  # the oldest result comes back


@dataclass(frozen=True)
class Story:
    """All that is random in one simulation. Hypothesis draws every part, so that a failure shrinks to a short one."""

    limits: dict[str, Any]
    requests: list[Request]
    depth: int  # plans in flight at most
    acts: list[Act]
    cancels: dict[int, int]
    """How many acts before a request is cancelled, and which one of those that are open."""


def windows() -> st.SearchStrategy[Windows]:
    """Groups of any windows, with or without one that sees everything, which comes first."""
    some = st.lists(st.integers(1, 20), max_size=2, unique=True).map(sorted)
    return st.builds(lambda first, rest: (*first, *rest), st.sampled_from([(), (None,)]), some).filter(len)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Any limits, above all tight ones, with any requests in any order of events."""
    block_size, max_sequences = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    n_blocks = draw(st.integers(2, 24))
    limits: dict[str, Any] = {
        "n_blocks": n_blocks,
        "block_size": block_size,
        "max_sequences": max_sequences,
        "token_budget": max_sequences + block_size + draw(st.sampled_from([0, 1, 5, 20])),
        "context_length": draw(st.integers(2, 2 * n_blocks * block_size)),
        "prefix_reuse": draw(st.sampled_from([True, True, True, False])),
        "ahead": draw(st.booleans()),
        "windows": draw(st.sampled_from([(None,), (None,)]) | windows()),
    }
    prompt = prompts(rig(**limits)[0].context_length - 1)
    params = st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 25),
        seed=st.integers(0, 1),
        stop_tokens=st.sampled_from([frozenset(), frozenset({STOP_TOKEN})]),
        ignore_eos=st.sampled_from([False, False, True]),
        repeat_penalty=st.sampled_from([1.0, 1.0, 1.0, 1.3]),
    )
    n_requests = draw(st.integers(1, 16))
    wanted = st.sampled_from([None, None, None, *WantedStates])
    return Story(
        limits,
        [with_params(seq_id, draw(prompt), draw(params), draw(wanted)) for seq_id in range(n_requests)],
        depth=draw(st.integers(1, 4)),
        acts=draw(st.lists(st.sampled_from(Act), max_size=60)),
        cancels=draw(st.dictionaries(st.integers(0, 300), st.integers(0, 15), max_size=8)),
    )


@st.composite
def prompts(draw: st.DrawFn, longest: int) -> list[int]:
    """Few different beginnings, so that prefixes are shared, also in the middle of a block."""
    length = draw(st.integers(1, min(longest, draw(st.sampled_from([4, 12, 60])))))
    return ([draw(st.integers(0, 1))] * draw(st.integers(0, length)) + [0, 1, 2, 3] * length)[:length]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories())
def test_everything_ends_with_the_right_tokens_whatever_happens(story: Story) -> None:
    scheduler, workers = rig(**story.limits)
    pipeline: deque[StepPlan | StepResult] = deque()  # oldest first; what has run already is a result
    expected: dict[int, tuple[list[int], FinishReason]] = {}
    states: dict[int, NDArray[np.float32]] = {}
    seen: dict[int, list[int]] = {}
    finished: dict[int, FinishReason] = {}
    cancelled: set[int] = set()
    running: set[int] = set()
    arrivals = deque(story.requests)

    def open_requests() -> list[int]:
        return [seq_id for seq_id in expected if seq_id not in finished and seq_id not in cancelled]

    # Each act once after those drawn, again and again, so that every story has an end.
    for number, act in enumerate(islice(cycle([*story.acts, *Act]), 100_000)):
        if number in story.cancels and (candidates := open_requests()):
            cancelled.add(victim := candidates[story.cancels[number] % len(candidates)])
            assert scheduler.cancel(victim)
            assert not scheduler.cancel(victim)
        if act is Act.ARRIVE and arrivals:
            new = arrivals.popleft()
            if new.states is None:
                expected[new.seq_id] = alone(new, scheduler.context_length, workers.windows)
            else:
                expected[new.seq_id] = [], FinishReason.STOP
                workers.wanted[new.seq_id] = new.states
                rows = states_of(new.tokens, new.params.seed)
                states[new.seq_id] = rows if new.states is WantedStates.ALL else rows[-1:]
                seen[new.seq_id] = []
            scheduler.add(new)
        if act is Act.PLAN and len(pipeline) < story.depth:
            plan = scheduler.step()
            if plan is not None:
                pipeline.append(plan)
                running = running - set(plan.forget) | {new.seq_id for new in plan.new}
                assert sorted(running) == open_requests()[: len(running)]  # nobody is ever overtaken in the queue
            elif not pipeline:
                assert not open_requests()  # or nothing would ever happen again
        # Workers take plans in order, and may be any way ahead of their results' arrival.
        unrun = next((i for i, item in enumerate(pipeline) if isinstance(item, StepPlan)), None)
        if act is Act.RUN and unrun is not None:
            issued = pipeline[unrun]
            assert isinstance(issued, StepPlan)
            pipeline[unrun] = workers.run(issued)
        if act is Act.FINISH and pipeline and isinstance(result := pipeline[0], StepResult):
            pipeline.popleft()
            for event in scheduler.finish_step(result):
                assert event.seq_id in open_requests()
                if event.seq_id in states:
                    assert event.sampled is None
                    assert event.hidden is not None
                    assert np.array_equal(event.hidden, states[event.seq_id])
                else:
                    assert event.sampled is not None
                    seen.setdefault(event.seq_id, []).append(event.sampled.token)
                if event.finish is not None:
                    finished[event.seq_id] = event.finish
        assert scheduler.busy == bool(open_requests())
        if not arrivals and not open_requests() and not pipeline:
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


def test_blocks_behind_a_window_are_given_back_and_their_content_is_reused() -> None:
    scheduler, workers = rig(n_blocks=200, max_sequences=1, token_budget=8, context_length=400, windows=(None, 6))
    held = 5  # of the window: (6 + 8) tokens in blocks of 4, and one more
    assert [pool.n_blocks for pool in workers.cache.pools] == [200, 2 * held]
    whole, window = workers.cache.pools
    first = request(0, [1, 2, 3, 0] * 10, max_tokens=50)
    scheduler.add(first)
    most = 0
    while scheduler.busy:
        turn(scheduler, workers)
        most = max(most, window.used_blocks)
    assert most == held
    # The next turn of a chat finds everything; what turns off in the middle only what the window's pool still holds.
    again, early = request(1, [*first.tokens, 1]), request(2, [*first.tokens[:60], 4, 4, 4, 4, 4])
    for each in (again, early):
        scheduler.add(each)
        expected = alone(each, 400)[0]
        assert finish_all(scheduler, workers)[each.seq_id] == expected
    assert again.cached == 88  # 90 tokens, the last of them never computed
    assert early.cached == 0
    assert whole.reusable_blocks > 20


def test_a_window_alone_has_no_end_of_context() -> None:
    """But that of the model: its pool is not what limits a sequence."""
    scheduler, workers = rig(n_blocks=50, max_sequences=1, token_budget=8, context_length=199, windows=(5,))
    assert workers.cache.n_blocks == 2 * 5
    assert scheduler.context_length == 199
    scheduler.add(long := request(0, [1, 2, 3] * 30, max_tokens=500))
    expected = alone(long, 199, (5,))[0]
    assert finish_all(scheduler, workers)[0] == expected
    assert len(long.tokens) == 199
    assert scheduler.stats().preemptions == 0


def test_a_pool_too_small_for_a_window_and_a_step_limits_the_context() -> None:
    scheduler, _ = rig(n_blocks=3, token_budget=16, windows=(5,))
    assert scheduler.context_length == 3 * 4


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


def test_lower_priorities_come_first_among_those_that_wait() -> None:
    scheduler, workers = rig(n_blocks=200, max_sequences=1, token_budget=64)
    asked = {0: 0, 1: 0, 2: 5, 3: -1, 4: 0, 5: -1, 6: 5}
    for seq_id, priority in asked.items():
        scheduler.add(request(seq_id, [1, 2], max_tokens=2, priority=priority))
        if not seq_id:
            turn(scheduler, workers)
    order = list[int]()
    while scheduler.busy:
        order += [event.seq_id for event in turn(scheduler, workers) if event.finish]
    assert order == [0, 3, 5, 1, 4, 2, 6], "those of one priority in order of arrival; nobody who runs is stopped"


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


def test_several_tokens_of_one_result_are_taken_in_order_up_to_the_end_of_the_request() -> None:
    scheduler, _ = rig()
    scheduler.add(Request(0, [1, 2, 3], SamplingParams(max_tokens=4, seed=0, stop_tokens=frozenset({STOP_TOKEN}))))
    scheduler.add(request(1, [1, 2], max_tokens=3))

    def finish(*sampled: tuple[int, int]) -> list[tuple[int, int, FinishReason | None]]:
        plan = scheduler.step()
        assert plan is not None
        chunks.append([(chunk.seq_id, chunk.position, chunk.tokens, chunk.samples) for chunk in plan.chunks])
        events = scheduler.finish_step(StepResult(plan.number, tuple([SampledToken(*each) for each in sampled])))
        return [(event.seq_id, event.sampled.token, event.finish) for event in events if event.sampled]

    chunks: list[list[tuple[int, int, tuple[int, ...], int]]] = []
    assert finish((0, 1), (0, 0), (1, 2)) == [(0, 1, None), (0, 0, None), (1, 2, None)]
    assert finish((0, STOP_TOKEN), (0, 3), (1, 1), (1, 3), (1, 2)) == [
        (1, 1, None),
        (1, 3, FinishReason.LENGTH),
        (0, STOP_TOKEN, FinishReason.STOP),
    ]
    assert chunks == [[(0, 0, (1, 2, 3), 1), (1, 0, (1, 2), 1)], [(1, 2, (2,), 1), (0, 3, (1, 0), 1)]]
    assert not scheduler.busy
    assert scheduler.stats().generated_tokens == 6


def test_hidden_states_of_a_whole_text_come_at_once_and_of_nothing_that_is_cached() -> None:
    scheduler, workers = rig(token_budget=9)
    for seq_id, wanted in enumerate((WantedStates.ALL, WantedStates.LAST, WantedStates.ALL)):
        workers.wanted[seq_id] = wanted
        text = with_params(seq_id, [1, 2, 3] * 6, SamplingParams(seed=0), wanted)
        scheduler.add(text)
        steps = 0
        while scheduler.busy:
            events = turn(scheduler, workers)
            steps += 1
        assert steps == (1 if wanted is WantedStates.LAST else 3)
        ((found, sampled, finish, cached, hidden, *_),) = events
        assert (found, sampled, finish) == (seq_id, None, FinishReason.STOP)
        assert cached == (16 if wanted is WantedStates.LAST else 0)
        assert hidden is not None
        rows = states_of(text.tokens, 0)
        assert np.array_equal(hidden, rows if wanted is WantedStates.ALL else rows[-1:])
    with pytest.raises(ContextOverflowError):
        scheduler.add(with_params(3, [1] * 101, SamplingParams(), WantedStates.LAST))
    with pytest.raises(UsageError):
        scheduler.add(with_params(3, [], SamplingParams(), WantedStates.LAST))
    assert scheduler.stats().blocks_used == 0


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
    respawned = Workers(workers.cache, 2, 16, number=lost.number)
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
        with_params(1, [2], SamplingParams(max_tokens=9, seed=0, repeat_penalty=1.1)),
        with_params(1, [2], SamplingParams(max_tokens=9, seed=0, presence_penalty=0.1)),
        with_params(1, [2], SamplingParams(max_tokens=9, seed=0, frequency_penalty=-0.1)),
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
    ahead.workers = Workers(CacheManager(ahead.workers.cache.layout, 20), 4, 16, known=known, number=number)
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
