"""Samplers that few ask for, against slow readings of their definitions."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from kit.one_token_each import one_token_each

from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import Dry, SamplingParams
from rowspan.worker.filters import draw_filtered
from rowspan.worker.repetition import BadWords, DryPenalty
from rowspan.worker.sampler import Sampler

VOCABULARY = 60


def probabilities(entries: list[tuple[int, float]], temperature: float = 1.0) -> list[float]:
    highest = max(value for _, value in entries)
    weights = [math.exp((value - highest) / temperature) for _, value in entries]
    return [weight / sum(weights) for weight in weights]


def reference(logits: list[float], params: SamplingParams, leaves_out: bool) -> dict[int, float]:
    """Token → probability, filter by filter."""
    entries = sorted(enumerate(logits), key=lambda entry: (-entry[1], entry[0]))
    entries = [entry for entry in entries if entry[1] > -math.inf]
    if params.top_n_sigma > 0:
        values = [value for _, value in entries]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        entries = [entry for entry in entries if entry[1] >= values[0] - params.top_n_sigma * deviation]
    if params.top_k > 0:
        entries = entries[: params.top_k]
    if params.typical_p < 1:
        each = probabilities(entries)
        entropy = -sum(p * math.log(p) for p in each)
        nearest = sorted(range(len(entries)), key=lambda n: (abs(-math.log(each[n]) - entropy), n))
        total, chosen = 0.0, []
        for n in nearest:
            chosen.append(n)
            total += each[n]
            if total > params.typical_p:
                break
        entries = [entries[n] for n in sorted(chosen)]
    if params.top_p < 1:
        total, kept = 0.0, 0
        for p in probabilities(entries):
            if kept and total >= params.top_p:
                break
            total += p
            kept += 1
        entries = entries[:kept]
    if params.min_p > 0:
        each = probabilities(entries)
        entries = [entry for entry, p in zip(entries, each, strict=True) if p >= params.min_p * each[0]]
    if leaves_out and params.xtc_threshold <= 0.5:
        above = sum(p >= params.xtc_threshold for p in probabilities(entries))
        entries = entries[max(0, above - 1) :]
    temperature = params.temperature
    if params.dynatemp_range > 0 and len(entries) > 1:
        entropy = -sum(p * math.log(p) for p in probabilities(entries))
        share = entropy / -math.log(1 / len(entries))
        lowest, highest = max(0, temperature - params.dynatemp_range), temperature + params.dynatemp_range
        temperature = lowest + (highest - lowest) * share**params.dynatemp_exponent
    return dict(zip((token for token, _ in entries), probabilities(entries, temperature), strict=True))


def random_params(rng: random.Random) -> dict[str, Any]:
    return {
        "temperature": rng.choice([0.5, 1.0, 1.7]),
        "top_k": rng.choice([0, 0, 5, 100]),
        "top_p": rng.choice([1.0, 0.9, 0.4]),
        "min_p": rng.choice([0.0, 0.05, 0.5]),
        "typical_p": rng.choice([1.0, 0.95, 0.5, 0.1]),
        "top_n_sigma": rng.choice([0.0, 0.5, 1.0, 3.0]),
        "xtc_probability": rng.choice([0.0, 0.5, 1.0]),
        "xtc_threshold": rng.choice([0.02, 0.1, 0.3, 0.6]),
        "dynatemp_range": rng.choice([0.0, 0.3, 1.5]),
        "dynatemp_exponent": rng.choice([1.0, 0.5, 2.0]),
    }


def test_a_temperature_of_nothing_is_no_division() -> None:
    sure = np.array([50.0, 0.0, -50.0], np.float32)
    assert draw_filtered(sure, SamplingParams(temperature=0.5, dynatemp_range=0.5), (0.999, 1)) == 0


@pytest.mark.parametrize("seed", range(150))
def test_draws_follow_the_definitions(seed: int) -> None:
    """By inversion: as the number that is drawn by rises, so do the tokens, each for as long as it is probable."""
    rng = random.Random(seed)
    params = SamplingParams(**random_params(rng))
    logits = [rng.gauss(0, 2) if rng.random() > 0.05 else -math.inf for _ in range(VOCABULARY)]
    leaves_out = rng.random() < params.xtc_probability
    second = 0.0 if leaves_out else 1.0
    expected = reference(logits, params, leaves_out)
    array, drawn = np.array(logits, np.float32), Counter[int]()
    steps = 400
    for step in range(steps):
        drawn[draw_filtered(array, params, ((step + 0.5) / steps, second))] += 1
    assert set(drawn) <= set(expected)
    for token, probability in expected.items():
        assert abs(drawn[token] / steps - probability) <= 1.01 / steps, (token, probability)
    coldest = draw_filtered(array, SamplingParams(**{**random_params(random.Random(seed)), "temperature": 0}), (0.5, 1))
    assert coldest in expected or leaves_out


def test_the_sampler_asks_for_them_and_a_seed_gives_the_same() -> None:
    logits = np.random.default_rng(1).normal(size=(1, VOCABULARY)).astype(np.float32)
    for params in (SamplingParams(typical_p=0.3, seed=4), SamplingParams(xtc_probability=1.0, temperature=0, seed=4)):
        tokens = []
        for _ in range(2):
            sampler = Sampler()
            sampler.learn(NewSequence(0, (1,), 1, params))
            tokens.append(sampler.sample(one_token_each([0]), logits)[0].token)
        assert tokens[0] == tokens[1]
    ranked = logits[0].argsort()[::-1]
    above = int((np.exp(logits[0]) / np.exp(logits[0]).sum() >= 0.1).sum())
    assert tokens[0] == ranked[max(0, above - 1)], "XTC leaves out the likeliest, also where nothing is drawn"


def penalties(tokens: list[int], dry: Dry) -> dict[int, float]:
    """The definition: for each token, the longest repetition that it would go on with."""
    window = tokens[-dry.last_n :] if dry.last_n > 0 else tokens
    found: dict[int, float] = {}
    for token in range(10):
        longest = 0
        for end in range(len(window) - 1):
            if window[end + 1] != token:
                continue
            length = 0
            while length <= end and window[end - length] == window[-1 - length]:
                if window[-1 - length] in dry.breakers:
                    break
                length += 1
            longest = max(longest, length)
        if longest >= max(1, dry.allowed_length) and token not in dry.breakers and len(window) > dry.allowed_length:
            found[token] = dry.multiplier * dry.base ** (longest - dry.allowed_length)
    return found


@pytest.mark.parametrize("seed", range(120))
def test_repetitions_are_penalized_by_their_length(seed: int) -> None:
    rng = random.Random(seed)
    breakers = frozenset(rng.sample(range(10), rng.choice([0, 0, 1, 2])))
    dry = Dry(
        multiplier=rng.choice([0.5, 2.0]),
        base=rng.choice([1.0, 1.75]),
        allowed_length=rng.choice([0, 1, 2, 4]),
        last_n=rng.choice([-1, 6, 20]),
        breakers=breakers,
    )
    tokens = rng.choices(range(rng.choice([2, 3, 10])), k=rng.choice([0, 1, 3, 12, 40]))
    change = DryPenalty(dry, tokens).change(10)
    told = {} if change is None else dict(zip(change.tokens.tolist(), (-change.values).tolist(), strict=True))
    assert told == pytest.approx(penalties(tokens, dry))


def test_endless_repetition_is_no_endless_work_and_no_endless_number() -> None:
    change = DryPenalty(Dry(5.0, base=50.0), [7] * 20_000).change(10)
    assert change is not None
    assert change.tokens.tolist() == [7]
    assert np.isfinite(change.values).all()


def test_bad_words_are_forbidden_as_a_whole() -> None:
    words = BadWords([(4,), (5, 6), (5, 7, 8), (99,)], [5, 1, 5], prompt_length=1)
    change = words.change(10)
    assert change is not None
    assert change.tokens.tolist() == [4, 6]
    assert np.isneginf(change.values).all()
    words.accept(7)
    change = words.change(10)
    assert change is not None
    assert change.tokens.tolist() == [4, 8]
    assert not BadWords([(4,)], [], 0).needs_last_token
    assert words.needs_last_token
