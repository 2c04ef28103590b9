"""Chunks that sample at several tokens, against the same tokens sampled one at a time, on the host and on a card."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kit import triton_device  # noqa: F401  # before any kernel
from kit.masks import masked_if_odd
from numpy.typing import NDArray

from rowspan.kernels.ops import WaitForTokens, pending_token
from rowspan.kernels.sampling import SamplingBatch
from rowspan.kernels.triton.sampling.choose_tokens import sample, torch_draw_beyond, torch_rank_keys
from rowspan.scheduler.batch import Chunk, NewSequence, SampledToken
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.card_sampler import CardSampler
from rowspan.worker.sampler import Sampler

VOCABULARY = 61
KINDS = ["host", "card"]


def model(seq_id: int, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits of what follows: they depend on every token."""
    return np.random.default_rng([seq_id, 7, *tokens]).standard_normal(VOCABULARY, dtype=np.float32) * np.float32(2)


def on_card(logits: torch.Tensor, batch: SamplingBatch[NDArray[np.generic]]) -> WaitForTokens:
    answer = sample(logits, batch.map(torch.from_numpy), torch_rank_keys, torch_draw_beyond)
    return lambda: answer.numpy()


class Rank:
    """A worker's sampler, and a model that needs no cache."""

    def __init__(self, kind: str, sequences: Sequence[NewSequence]) -> None:
        self.on_card = kind == "card"
        self.sampler: Any = CardSampler(on_card, masked_if_odd) if self.on_card else Sampler(masked_if_odd)
        for sequence in sequences:
            self.sampler.learn(sequence)

    def step(self, chunks: Sequence[Chunk], known: Sequence[Sequence[int]]) -> list[tuple[SampledToken, ...]]:
        """What each chunk samples; known: the tokens of each one's sequence before it."""
        rows = [
            model(chunk.seq_id, [*before, *chunk.tokens[: len(chunk.tokens) - left]])
            for chunk, before in zip(chunks, known, strict=True)
            for left in reversed(range(chunk.samples))
        ]
        logits = np.array(rows, np.float32)
        if self.on_card:
            sampled = self.sampler.sample(chunks, torch.from_numpy(logits))()
        else:
            sampled = self.sampler.sample(chunks, logits)
        return [tuple(each for each in sampled if each.seq_id == chunk.seq_id) for chunk in chunks]


def random_sequences(rng: random.Random, n: int) -> list[NewSequence]:
    def params() -> SamplingParams:
        return SamplingParams(
            temperature=rng.choice([0.0, 0.7, 1.5]),
            top_p=rng.choice([1.0, 0.9]),
            repeat_penalty=rng.choice([1.0, 1.4]),
            repeat_last_n=rng.choice([3, -1]),
            frequency_penalty=rng.choice([0.0, 0.5]),
            logit_bias={3: 2.0} if rng.random() < 0.5 else {},
            seed=rng.getrandbits(60),
            logprobs=rng.choice([None, 2]),
        )

    def tokens() -> tuple[int, ...]:
        return tuple(rng.choices(range(VOCABULARY), k=rng.randint(6, 12)))

    return [NewSequence(seq_id, tokens(), rng.randint(1, 5), params()) for seq_id in range(n)]


def one_at_a_time(kind: str, sequence: NewSequence, tokens: tuple[int, ...]) -> SampledToken:
    """What follows some tokens, on a rank that has never heard of others."""
    rank = Rank(kind, [replace(sequence, tokens=tokens)])
    chunk = Chunk(sequence.seq_id, tokens, 0, (), samples=1)
    return rank.step([chunk], [()])[0][0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_along_a_known_text_each_place_gives_what_it_gives_alone(kind: str, seed: int) -> None:
    """Penalties and masks see the text up to there; afterwards the sequence goes on as if nothing had been asked."""
    rng = random.Random(seed)
    sequences = random_sequences(rng, 4)
    chunks, before = [], []
    for sequence in sequences:
        start = rng.randint(0, 3)
        samples = rng.randint(1, len(sequence.tokens) - start)
        chunks.append(Chunk(sequence.seq_id, sequence.tokens[start:], start, (), samples))
        before.append(sequence.tokens[:start])
    rank = Rank(kind, sequences)
    for chunk, found in zip(chunks, rank.step(chunks, before), strict=True):
        sequence = sequences[chunk.seq_id]
        length = len(sequence.tokens)
        places = range(length - chunk.samples + 1, length + 1)
        assert found == tuple(one_at_a_time(kind, sequence, sequence.tokens[:place]) for place in places)
        grown = (*sequence.tokens, found[-1].token)
        again = rank.step([Chunk(chunk.seq_id, grown[-1:], length, (), 1)], [grown[:-1]])
        assert again == [(one_at_a_time(kind, sequence, grown),)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_guesses_give_the_tokens_of_decoding_up_to_the_first_wrong_one(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    sequences = random_sequences(rng, 3)
    rank = Rank(kind, sequences)
    answers = [list(sequence.tokens) for sequence in sequences]
    for _ in range(3):
        chunks, expected = [], []
        for sequence, known in zip(sequences, answers, strict=True):
            tokens = list(known)
            for _ in range(4):
                tokens.append(one_at_a_time(kind, sequence, tuple(tokens)).token)
            follows, right, guesses = tokens[len(known) :], rng.randint(0, 3), rng.randint(0, 3)
            guessed = [token if place < right else (token + 1) % VOCABULARY for place, token in enumerate(follows)]
            chunks.append(
                Chunk(sequence.seq_id, (known[-1], *guessed[:guesses]), len(known) - 1, (), samples=guesses + 1)
            )
            expected.append(follows[: min(right, guesses) + 1])
        sampled = rank.step(chunks, [known[:-1] for known in answers])
        assert [[each.token for each in found] for found in sampled] == expected
        for known, found in zip(answers, expected, strict=True):
            known += found


def test_the_token_that_only_the_card_knows_is_the_last_of_its_chunk() -> None:
    sequences = random_sequences(random.Random(1), 2)
    rank = Rank("card", sequences)
    chunks = [Chunk(each.seq_id, each.tokens, 0, (), samples) for each, samples in zip(sequences, (3, 1), strict=True)]
    rank.step(chunks, [(), ()])
    assert [rank.sampler.latest(seq_id) for seq_id in (0, 1)] == [pending_token(2), pending_token(3)]
