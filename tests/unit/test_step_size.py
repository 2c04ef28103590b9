"""Steps that got smaller because a card was full become larger again, and the tries that fail get rarer and rarer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.kvcache.groups import FULL, CacheLayout
from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import SampledToken, StepResult
from rowspan.scheduler.request import Request, SamplingParams
from rowspan.scheduler.scheduler import Scheduler
from rowspan.scheduler.step_size import PATIENCE, StepSize


def failures(size: StepSize, steps: int, room: Callable[[int], int]) -> list[int]:
    """Numbers of the full steps that failed, on a card with room for so many tokens at each."""
    failed = []
    for step in range(steps):
        if size.tokens > room(step):
            failed.append(step)
            size.shrink()
        else:
            size.take_full_step()
    return failed


def test_sizes_halve_and_grow_back_the_same_way() -> None:
    size = StepSize(512, 48)
    sizes = [size.tokens]
    for _ in range(5):
        size.shrink()
        sizes.append(size.tokens)
    assert sizes == [512, 256, 128, 64, 48, 48]
    for expected in (48, 64, 128, 256, 512):
        assert size.tokens == expected
        for _ in range(PATIENCE):
            size.take_full_step()
    assert failures(size, 10 * PATIENCE, lambda step: 512) == []
    assert size.tokens == 512


def test_what_was_full_for_a_moment_is_forgotten() -> None:
    size = StepSize(512, 48)
    assert failures(size, 3 * PATIENCE, lambda step: 200 if step < 100 else 512) == [0, 1]
    assert size.tokens == 512


def test_a_card_that_stays_full_is_tried_ever_less_often() -> None:
    size = StepSize(512, 48)
    failed = failures(size, 100 * PATIENCE, lambda step: 300)
    gaps = [later - earlier for earlier, later in pairwise(failed)]
    assert failed[0] == 0
    assert len(failed) <= 8
    assert all(later >= 2 * earlier - 1 for earlier, later in pairwise(gaps))
    assert size.tokens in (256, 512)


@settings(deadline=None)
@given(rooms=st.lists(st.integers(48, 600), min_size=1, max_size=30), each=st.integers(1, 2 * PATIENCE))
def test_however_the_room_changes_failures_stay_few(rooms: list[int], each: int) -> None:
    size = StepSize(512, 48)
    failed = failures(size, each * len(rooms), lambda step: rooms[step // each])
    assert 48 <= size.tokens <= 512
    # Each failure after a try doubles what the next one waits for; up to four in a row follow one another.
    tries = 1
    while PATIENCE * (2**tries - 1) < each * len(rooms):
        tries += 1
    assert len(failed) <= 4 * (tries + 1)


def test_the_scheduler_counts_steps_that_are_as_large_as_may_be() -> None:
    scheduler = Scheduler(
        CacheManager(CacheLayout((FULL,), 4, 2, 32), 4000),
        max_sequences=2,
        token_budget=32,
        context_length=16000,
        prefix_reuse=False,
    )
    scheduler.shrink_steps()

    def run(prompt: int) -> list[int]:
        """Tokens of each step that a prompt takes."""
        scheduler.add(Request(prompt, [1] * prompt, SamplingParams(max_tokens=1, temperature=0, seed=0)))
        taken = []
        while (plan := scheduler.step()) is not None:
            taken.append(sum(len(chunk.tokens) for chunk in plan.chunks))
            samples = [SampledToken(chunk.seq_id, 1) for chunk in plan.chunks if chunk.samples]
            scheduler.finish_step(StepResult(plan.number, tuple(samples)))
        return taken

    assert max(run(16 * PATIENCE // 2)) == 16
    for short in range(1, 8):
        assert run(short) == [short], "says nothing of larger steps"
    sizes = run(16 * PATIENCE)
    half = len(sizes) - sizes[::-1].index(16)
    assert sizes[:half] == [16] * half
    assert set(sizes[half:-1]) == {32}
    assert half == PATIENCE - PATIENCE // 2
