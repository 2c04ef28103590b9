"""The sampler against a slow reference that works on whole distributions in plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from kit.masks import RandomMask, masked_if_odd
from kit.one_token_each import one_token_each

from rowspan.kernels.sampling import NOT_FINITE
from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.history import History
from rowspan.worker.sampler import FIRST_RANKS, Sampler


def reference_logits(logits: list[float], tokens: list[int], prompt_length: int, params: SamplingParams) -> list[float]:
    """Logit bias and penalties, one entry at a time, from their published definitions."""
    recent = tokens if params.repeat_last_n < 0 else tokens[len(tokens) - params.repeat_last_n :]
    recent = recent if params.repeat_last_n else []
    counts = Counter(tokens[prompt_length:])
    changed = []
    for token, value in enumerate(logits):
        value += params.logit_bias.get(token, 0.0)
        if token in recent:
            value = value / params.repeat_penalty if value > 0 else value * params.repeat_penalty
        if counts[token]:
            value -= params.frequency_penalty * counts[token] + params.presence_penalty
        changed.append(value)
    return changed


def reference_distribution(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token → probability after top_k, top_p, min_p and temperature."""

    def softmax(entries: list[tuple[int, float]], temperature: float = 1.0) -> list[float]:
        highest = max(value for _, value in entries)
        weights = [math.exp((value - highest) / temperature) for _, value in entries]
        return [weight / sum(weights) for weight in weights]

    entries = sorted(enumerate(logits), key=lambda entry: (-entry[1], entry[0]))
    if params.top_k > 0:
        entries = entries[: params.top_k]
    probabilities = softmax(entries)
    kept, before = 0, 0.0
    while kept < len(entries) and (kept == 0 or before < params.top_p):
        before += probabilities[kept]
        kept += 1
    if params.top_p >= 1.0:
        kept = len(entries)
    kept = max(1, sum(probability >= params.min_p * probabilities[0] for probability in probabilities[:kept]))
    entries = entries[:kept]
    return dict(zip((token for token, _ in entries), softmax(entries, params.temperature), strict=True))


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.3, 0.8, 1.0, 2.0]),
        top_k=rng.choice([0, 1, 3, 10, 1000]),
        top_p=rng.choice([1.0, 0.9, 0.5, 0.01]),
        min_p=rng.choice([0.0, 0.05, 0.4]),
        repeat_penalty=rng.choice([1.0, 1.3, 0.8]),
        repeat_last_n=rng.choice([64, 3, -1, 0]),
        frequency_penalty=rng.choice([0.0, 0.5, -0.5]),
        presence_penalty=rng.choice([0.0, 1.0]),
        logit_bias={rng.randrange(20): rng.uniform(-5, 5) for _ in range(rng.choice([0, 2]))},
        seed=rng.getrandbits(64),
    )


@pytest.mark.parametrize("case", range(12))
def test_draws_follow_the_reference_distribution(case: int) -> None:
    """2,000 requests that differ in their seeds only; Pearson's chi-square at p = 1e-6, and nothing impossible."""
    rng = random.Random(case)
    params = random_params(rng)
    logits = [rng.gauss(0, 2) for _ in range(20)]
    tokens = rng.choices(range(20), k=12)
    wanted = reference_distribution(reference_logits(logits, tokens, 5, params), params)
    sampler = Sampler()
    n_draws = 2000
    row = np.array([logits], dtype=np.float32)
    drawn: Counter[int] = Counter()
    for seq_id in range(n_draws):
        sampler.learn(NewSequence(seq_id, tuple(tokens), 5, replace(params, seed=rng.getrandbits(64))))
        drawn[sampler.sample(one_token_each([seq_id]), row)[0].token] += 1
    assert set(drawn) <= set(wanted)
    common = {token: p for token, p in wanted.items() if p * n_draws >= 5}
    chi_square = sum((drawn[token] - p * n_draws) ** 2 / (p * n_draws) for token, p in common.items())
    degrees = max(1, len(common) - 1)
    # Wilson and Hilferty's approximation of the quantile; 4.75 standard deviations are p = 1e-6.
    limit = degrees * (1 - 2 / (9 * degrees) + 4.75 * math.sqrt(2 / (9 * degrees))) ** 3
    assert chi_square <= limit


@pytest.mark.parametrize("seed", range(100))
def test_a_draw_from_a_large_vocabulary_is_where_the_cumulative_sum_of_all_gets_to(seed: int) -> None:
    """Of steep distributions, which end among their first tokens, and flat ones, with many equal logits or none."""
    rng = random.Random(seed)
    size = rng.choice([*(first + more for first in FIRST_RANKS for more in (-1, 0, 1)), 3000, 50000])
    params = replace(random_params(rng), repeat_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0, logit_bias={})
    params = replace(params, temperature=rng.choice([0.1, 1.0, 3.0]), top_k=rng.choice([0, 0, 5, 1024, 1025, 2000]))
    logits = np.random.default_rng(seed).standard_normal((1, size), dtype=np.float32) * np.float32(
        rng.choice([0.1, 2, 9])
    )
    if rng.random() < 0.3:
        logits = np.round(logits)
    sequence = NewSequence(0, (1, 2), 2, params)
    sampler = Sampler()
    sampler.learn(sequence)

    order = np.argsort(-logits[0], kind="stable")[: params.top_k or size]
    ranked = logits[0, order].astype(np.float64)
    mass = np.exp(ranked - ranked[0]).cumsum()
    kept = len(ranked)
    if params.top_p < 1:
        kept = 1 + np.searchsorted(mass, params.top_p * mass[-1])
    ranked = ranked[:kept]
    ranked = ranked[ranked >= ranked[0] + math.log(params.min_p)] if params.min_p else ranked
    mass = np.exp((ranked - ranked[0]) / params.temperature).cumsum()
    expected = order[np.searchsorted(mass, History.of(sequence).uniform() * mass[-1], side="right")]
    assert sampler.sample(one_token_each([0]), logits)[0].token == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_draws_from_the_allowed_tokens_alone(temperature: float) -> None:
    """As from a vocabulary that has no others. Log-probabilities stay the model's."""
    size = 203
    sampler, plain = Sampler(masked_if_odd), Sampler()
    for seq_id in range(6):
        params = SamplingParams(temperature=temperature, top_p=0.9, min_p=0.01, seed=seq_id, logprobs=0)
        sampler.learn(NewSequence(seq_id, (seq_id,), 1, params))
        plain.learn(NewSequence(seq_id, (seq_id,), 1, params))
    masks = [RandomMask((seq_id,)) for seq_id in range(6)]
    for logits in np.random.default_rng(5).standard_normal((20, 6, size), dtype=np.float32):
        sampled = sampler.sample(one_token_each(range(6)), logits)
        for seq_id, each in enumerate(sampled):
            allowed = np.arange(size)
            if seq_id % 2:
                allowed = np.flatnonzero(masks[seq_id].allowed(size))
                masks[seq_id].accept(each.token)
            (expected,) = plain.sample(one_token_each([seq_id]), logits[seq_id : seq_id + 1, allowed])
            assert each.token == allowed[expected.token]
            log_sum = math.log(np.exp(logits[seq_id].astype(np.float64)).sum())
            assert each.logprob == pytest.approx(logits[seq_id, each.token] - log_sum, abs=1e-5)


def test_greedy_is_the_reference_argmax_with_penalties() -> None:
    rng = random.Random(7)
    for seq_id in range(200):
        params = replace(random_params(rng), temperature=0.0)
        logits = [rng.gauss(0, 2) for _ in range(20)]
        tokens = rng.choices(range(20), k=9)
        changed = reference_logits(logits, tokens, 4, params)
        sampler = Sampler()
        sampler.learn(NewSequence(seq_id, tuple(tokens), 4, params))
        chosen = sampler.sample(one_token_each([seq_id]), np.array([logits], dtype=np.float32))[0].token
        assert changed[chosen] == pytest.approx(max(changed), abs=1e-5)


def test_a_seed_means_the_same_tokens_after_a_preemption_and_in_any_company() -> None:
    logits = np.random.default_rng(3).standard_normal((30, 4, 50), dtype=np.float32)
    params = SamplingParams(temperature=1.0, seed=99, repeat_penalty=1.2, frequency_penalty=0.3)

    def run(company: int, interrupted_at: int | None) -> list[int]:
        sampler, tokens = Sampler(), [1, 2, 3]
        for seq_id in range(company + 1):
            sampler.learn(
                NewSequence(seq_id, tuple(tokens), 3, params if seq_id == company else replace(params, seed=seq_id))
            )
        for step, rows in enumerate(logits):
            if step == interrupted_at:
                sampler.forget(company)
                sampler.learn(NewSequence(company, tuple(tokens), 3, params))
            mixed = np.concatenate((rows[1 : company + 1], rows[:1]))
            tokens.append(sampler.sample(one_token_each(range(company + 1)), mixed)[-1].token)
        return tokens

    assert run(0, None) == run(3, None) == run(2, 11)
    assert len(set(run(0, None))) > 5


def test_logprobs_are_those_of_the_model_not_of_the_filters() -> None:
    values = [1.0, 3.0, 2.0, 0.0]
    sampler = Sampler()
    sampler.learn(
        NewSequence(0, (2,), 1, SamplingParams(temperature=0.1, top_k=1, logit_bias={0: 100.0}, seed=1, logprobs=2))
    )
    sampled = sampler.sample(one_token_each([0]), np.array([values], dtype=np.float32))[0]
    total = math.log(sum(map(math.exp, values)))
    assert sampled.token == 0
    assert sampled.logprob == pytest.approx(1.0 - total)
    assert [token for token, _ in sampled.top] == [1, 2]
    assert [logprob for _, logprob in sampled.top] == pytest.approx([3.0 - total, 2.0 - total])


@pytest.mark.parametrize("top_k", [0, 3, 6])
def test_among_equal_logits_the_lower_id_ranks_first(top_k: int) -> None:
    """Seven tokens share five places: the drawn ones are the first of those that a stable sort ranks."""
    logits = np.array([[0.0, 1.0, 0.0, 1.0, -1.0, 0.0, 0.0]], dtype=np.float32)
    ranking = [1, 3, 0, 2, 5, 6, 4]
    params = SamplingParams(temperature=100.0, top_k=top_k, logprobs=5)
    sampler, drawn = Sampler(), set()
    for seq_id in range(300):
        sampler.learn(NewSequence(seq_id, (), 0, replace(params, seed=seq_id)))
        sampled = sampler.sample(one_token_each([seq_id]), logits)[0]
        drawn.add(sampled.token)
        assert [token for token, _ in sampled.top] == ranking[:5]
    assert drawn == set(ranking[: top_k or 7])


def test_a_row_without_numbers_harms_no_other() -> None:
    logits = np.array([[math.nan] * 4, [0.0, 0.0, 9.0, 0.0]], dtype=np.float32)
    for temperature in (0.0, 1.0):
        sampler = Sampler()
        params = SamplingParams(temperature=temperature, min_p=0.5, top_p=0.9, seed=1, logprobs=4)
        for seq_id in (0, 1):
            sampler.learn(NewSequence(seq_id, (1,), 1, params))
        assert [each.token for each in sampler.sample(one_token_each([0, 1]), logits)] == [NOT_FINITE, 2]


def test_nothing_to_sample() -> None:
    assert Sampler().sample([], np.empty((0, 0), dtype=np.float32)) == ()
