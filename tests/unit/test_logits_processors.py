"""Logits processors' state: as if it had been made anew after each token, also after some were taken back."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import Dry, SamplingParams
from rowspan.worker.logits_changes import Addition, LogitsChange, Penalty
from rowspan.worker.logits_processors import logits_processors, needs_last_token

EVERYTHING = SamplingParams(
    repeat_penalty=1.2, repeat_last_n=5, frequency_penalty=0.5, presence_penalty=0.25, logit_bias={3: 1.5, 99: 7.0}
)
ALSO_RARE = replace(EVERYTHING, dry=Dry(0.5, allowed_length=1, last_n=7), bad_words=((4,), (5, 6), (99,)))


def effect(changes: list[LogitsChange | None]) -> list[float]:
    logits = np.linspace(-2, 2, 10, dtype=np.float32)
    for change in changes:
        if change is not None:
            change.apply(logits)
    return logits.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("params", [EVERYTHING, ALSO_RARE], ids=["usual", "rare"])
@pytest.mark.parametrize("seed", range(20))
def test_what_was_rolled_back_is_forgotten(seed: int, params: SamplingParams) -> None:
    rng = random.Random(seed)
    prompt_length = rng.randint(0, 6)
    tokens = rng.choices(range(10), k=rng.randint(0, 9))
    processors = logits_processors(NewSequence(0, tuple(tokens), prompt_length, params))
    assert len(processors) == (3 if params is EVERYTHING else 5)
    for _ in range(60):
        if rng.random() < 0.3:
            n_tokens = rng.randint(0, len(tokens))
            del tokens[len(tokens) - n_tokens :]
            for processor in processors:
                processor.roll_back(n_tokens)
        else:
            tokens.append(rng.randrange(10))
            for processor in processors:
                processor.accept(tokens[-1])
        anew = logits_processors(NewSequence(0, tuple(tokens), prompt_length, params))
        assert effect([each.change(10) for each in processors]) == effect([each.change(10) for each in anew])


def test_changes_come_in_the_order_of_llama_cpps_chain_and_of_known_tokens_only() -> None:
    changes = [each.change(10) for each in logits_processors(NewSequence(0, (1, 2, 2), 1, EVERYTHING))]
    bias, repeated, counted = changes
    assert isinstance(bias, Addition)
    assert (bias.tokens.tolist(), bias.values.tolist()) == ([3], [1.5])
    assert isinstance(repeated, Penalty)
    assert (sorted(repeated.tokens.tolist()), repeated.factor) == ([1, 2], 1.2)
    assert isinstance(counted, Addition)
    assert (counted.tokens.tolist(), counted.values.tolist()) == ([2], [-1.25])


@pytest.mark.parametrize(
    ("params", "needs"),
    [
        (SamplingParams(temperature=0.0), False),
        (SamplingParams(temperature=0.7, top_k=3, top_p=0.5, min_p=0.1, logprobs=5, logit_bias={1: 2.0}), False),
        (SamplingParams(repeat_penalty=0.9), True),
        (SamplingParams(repeat_penalty=0.9, repeat_last_n=0), False),
        (SamplingParams(frequency_penalty=-0.1), True),
        (SamplingParams(presence_penalty=0.1), True),
    ],
)
def test_only_penalties_need_the_last_token(params: SamplingParams, needs: bool) -> None:
    assert needs_last_token(params) == needs
