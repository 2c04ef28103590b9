"""Sampling on a card (here torch on whatever DEVICE is) against the CPU's sampler, which defines it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kit.masks import RandomMask, masked_if_odd
from kit.one_token_each import one_token_each
from kit.triton_device import DEVICE

from rowspan.kernels.sampling import NOT_FINITE
from rowspan.kernels.triton.sampling import draw
from rowspan.kernels.triton.sampling.choose_tokens import DrawBeyond, rank_keys, sample, torch_draw_beyond
from rowspan.scheduler.batch import NewSequence, SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker import sampling_batch as batches
from rowspan.worker.history import History
from rowspan.worker.logits_processors import MakeProcessors, logits_processors
from rowspan.worker.sampler import Sampler
from rowspan.worker.sampling_batch import sampled_tokens, sampling_batch

VOCABULARY = 500


class Both:
    """The same sequences in the CPU's sampler and on the card."""

    def __init__(
        self,
        sequences: list[NewSequence],
        beyond: DrawBeyond = draw.draw_beyond,
        processors: MakeProcessors = logits_processors,
    ) -> None:
        self.beyond = beyond
        self.cpu = Sampler(processors)
        for sequence in sequences:
            self.cpu.learn(sequence)
        self.chunks = one_token_each(sequence.seq_id for sequence in sequences)
        self.histories = [History.of(sequence, processors) for sequence in sequences]

    def step(self, logits: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> tuple[SampledToken, ...]:
        """The card's tokens, once they are what the CPU says."""
        given = torch.from_numpy(logits.copy()).to(DEVICE)
        batch = sampling_batch([each.choice(logits.shape[1]) for each in self.histories], logits.shape[1])
        asked = batch.map(lambda array: torch.from_numpy(array).to(DEVICE))
        answer = sample(given, asked, rank_keys, self.beyond).cpu().numpy()
        for history in self.histories:
            history.expect()
        torch.testing.assert_close(given.cpu(), torch.from_numpy(logits), atol=0, rtol=0, equal_nan=True)
        ours = sampled_tokens(self.chunks, self.histories, answer)
        theirs = self.cpu.sample(self.chunks, logits)
        assert [each.token for each in ours] == [each.token for each in theirs]
        for our, their in zip(ours, theirs, strict=True):
            assert [token for token, _ in our.top] == [token for token, _ in their.top]
            assert our.logprob == pytest.approx(their.logprob, abs=1e-6, nan_ok=True)
            assert [value for _, value in our.top] == pytest.approx([value for _, value in their.top], abs=1e-6)
        return ours


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.3, 1.0, 2.0]),
        top_k=rng.choice([0, 1, 3, 40, 499, 500, 9999]),
        top_p=rng.choice([1.0, 0.9, 0.5, 0.01, 0.0]),
        min_p=rng.choice([0.0, 0.05, 0.4, 1.0]),
        repeat_penalty=rng.choice([1.0, 1.3, 0.8]),
        repeat_last_n=rng.choice([64, 3, -1, 0]),
        frequency_penalty=rng.choice([0.0, 0.5, -0.5]),
        presence_penalty=rng.choice([0.0, 1.0]),
        logit_bias={rng.randrange(VOCABULARY + 9): rng.uniform(-5, 5) for _ in range(rng.choice([0, 0, 1, 5]))},
        seed=rng.getrandbits(64),
        logprobs=rng.choice([None, 0, 1, 7]),
    )


def new_sequences(rng: random.Random, params: list[SamplingParams]) -> list[NewSequence]:
    def tokens() -> tuple[int, ...]:
        return tuple(rng.choices(range(VOCABULARY), k=rng.choice([0, 1, 9, 70])))

    return [NewSequence(n, known := tokens(), min(5, len(known)), each) for n, each in enumerate(params)]


@pytest.mark.parametrize("case", range(20))
def test_rows_that_ask_for_different_things_share_a_step(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse logits are full of ties; eight steps, so that penalties take effect on what was drawn. In some, few tokens
    are ranked at first, and many draws fall beyond."""
    monkeypatch.setattr(batches, "MOST_RANKED", (1024, 64)[case // 2 % 2])
    rng, numbers = random.Random(case), np.random.default_rng(case)
    both = Both(new_sequences(rng, [random_params(rng) for _ in range(rng.choice([1, 2, 7]))]))
    for _ in range(8):
        logits = numbers.normal(0, 3, (len(both.chunks), VOCABULARY)).astype(np.float32)
        both.step(logits if case % 2 else np.round(logits))


@pytest.mark.parametrize("case", range(8))
def test_masks_of_some_rows_leave_out_tokens_of_these_only(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside penalties, bias and rows without a mask. 500 tokens are no whole number of bytes."""
    monkeypatch.setattr(batches, "MOST_RANKED", (1024, 64)[case % 2])
    rng, numbers = random.Random(case), np.random.default_rng(case)
    sequences = new_sequences(rng, [random_params(rng) for _ in range(5)])
    both = Both(sequences, processors=masked_if_odd)
    masks = {each.seq_id: RandomMask(each.tokens) for each in sequences if each.seq_id % 2}
    outside = 0
    for _ in range(6):
        for sampled in both.step(numbers.normal(0, 1, (5, VOCABULARY)).astype(np.float32)):
            if mask := masks.get(sampled.seq_id):
                assert mask.allowed(VOCABULARY)[sampled.token]
                mask.accept(sampled.token)
            else:
                outside += 1
    assert outside == 18


@pytest.mark.parametrize("top_k", [0, 3, 40, 1024, 1025])
def test_a_large_vocabulary_is_sorted_only_as_far_as_needed(top_k: int) -> None:
    params = SamplingParams(temperature=1.5, top_k=top_k, top_p=0.99, logprobs=3)
    both = Both([NewSequence(n, (), 0, replace(params, seed=n)) for n in range(20)])
    batch = sampling_batch([each.choice(3000) for each in both.histories], 3000)
    assert batch.ranked == {0: 1024, 3: 4, 40: 64, 1024: 1024, 1025: 3000}[top_k]
    numbers = np.random.default_rng(top_k)
    drawn = {each.token for each in both.step(np.round(numbers.normal(0, 3, (20, 3000))).astype(np.float32))}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("params", "beyond"),
    [
        (SamplingParams(temperature=1.0), False),  # such logits have 99.99 % of their mass in 16 of 400 tokens …
        (SamplingParams(temperature=6.0), True),  # … but not at this temperature …
        (SamplingParams(temperature=6.0, min_p=0.01), False),  # … unless the others are left out
        (SamplingParams(temperature=6.0, top_p=0.9), False),
        (SamplingParams(temperature=6.0, top_p=0.999999), True),
    ],
)
def test_draws_beyond_the_ranked_tokens_are_found_without_an_order(
    params: SamplingParams, beyond: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_RANKED", 16)
    drawn_beyond: list[bool] = []

    def draw_beyond(token: torch.Tensor, *rest: Any) -> None:
        drawn_beyond.append(bool((token < 0).any()))
        draw.draw_beyond(token, *rest)

    both = Both([NewSequence(n, (), 0, replace(params, seed=n, logprobs=2)) for n in range(5)], draw_beyond)
    for step in range(2):
        order = np.random.default_rng(step).permutation(400)
        logits = np.tile(-order.astype(np.float32) * 0.7, (5, 1))
        both.step(logits)
    assert any(drawn_beyond) == beyond


@pytest.mark.parametrize("beyond", [draw.draw_beyond, torch_draw_beyond])
@pytest.mark.parametrize("top_p", [1.0, 0.97])
def test_draws_beyond_keep_to_the_order_of_equals(
    top_p: float, beyond: DrawBeyond, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few values, so that each border falls among many equal ones; more tokens than a program looks at together."""
    monkeypatch.setattr(batches, "MOST_RANKED", 16)
    params = SamplingParams(temperature=3.0, top_p=top_p, min_p=0.01)
    both = Both([NewSequence(n, (), 0, replace(params, seed=n)) for n in range(3)], beyond)
    logits = np.random.default_rng(0).integers(-3, 3, (3, draw.BLOCK + 900)).astype(np.float32)
    assert max(each.token for each in both.step(logits)) > draw.BLOCK // 2


def test_greedy_steps_need_no_more_than_an_argmax() -> None:
    both = Both([NewSequence(n, (1, 2), 2, SamplingParams(temperature=0.0)) for n in range(3)])
    batch = sampling_batch([each.choice(6) for each in both.histories], 6)
    assert (batch.ranked, batch.alternatives, batch.changes) == (0, None, ())
    logits = np.array([[1, 5, 5, 0, -1, 5], [-3, -3, -3, -3, -3, -3], [0.0, -0.0, -1, -1, -1, 0]], np.float32)
    assert [each.token for each in both.step(logits)] == [1, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_numbers_harms_no_other(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, min_p=0.5, top_p=0.9, seed=1, logprobs=4, repeat_penalty=1.5, logit_bias={1: 2.0}
    )
    both = Both([NewSequence(n, (1,), 1, params) for n in range(3)])
    logits = np.array([[math.nan] * 5, [0, 0, 9, 0, 1], [0, 1, 2, math.nan, 9]], np.float32)
    batch = sampling_batch([each.choice(5) for each in both.histories], 5).map(
        lambda array: torch.from_numpy(array).to(DEVICE)
    )
    answer = sample(torch.from_numpy(logits).to(DEVICE), batch, rank_keys, both.beyond).cpu().numpy()
    expected = both.cpu.sample(both.chunks, logits)
    ours = sampled_tokens(both.chunks, both.histories, answer)
    assert [each.token for each in ours] == [each.token for each in expected] == [NOT_FINITE, 2, NOT_FINITE]
    assert ours[1].top[0][0] == 2


def test_minus_zero_ranks_with_zero() -> None:
    params = [SamplingParams(temperature=50.0, top_k=2, seed=seed, logprobs=3) for seed in range(40)]
    both = Both([NewSequence(n, (), 0, each) for n, each in enumerate(params)])
    logits = np.tile(np.array([[-0.0, -1.0, 0.0, -0.0]], np.float32), (40, 1))
    sampled = both.step(logits)
    assert {each.token for each in sampled} == {0, 2}
    assert [token for token, _ in sampled[0].top] == [0, 2, 3]
