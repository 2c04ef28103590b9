"""The only messages between the engine and its workers: plain data, small enough to pickle every step.

Types with an instance per sequence and step are NamedTuples: they are built in half a dataclass's time, and sent as
plain tuples. Between two steps the processor's caches hold weights, so whatever pickling an object of a class touches
comes from memory (16 chunks: 48 instead of 94 µs to pickle, 54 instead of 75 to read).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rowspan.kvcache.tables import block_table
from rowspan.scheduler.request import FinishReason, SamplingParams

LATEST = -1
"""Stands for the token that the step before chooses for this sequence, which the scheduler does not know yet."""


@dataclass(frozen=True, slots=True)
class NewSequence:
    """Introduces a sequence to the workers, again after a preemption, then with the tokens generated before it."""

    seq_id: int
    tokens: tuple[int, ...]  # every token known so far, for the sampler's penalties
    prompt_length: int
    params: SamplingParams  # seed is never None here


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence, computed in one step."""

    seq_id: int
    tokens: tuple[int, ...]  # or LATEST alone
    position: int  # of tokens[0] in its sequence
    # Cache blocks that hold positions 0 … position + len(tokens) - 1, in order: of each group of layers (see
    # `rowspan.kvcache.groups`), one behind the other and equally many. Behind a window any block stands for none.
    blocks: Sequence[int]
    samples: int  # of its last tokens, whose logits choose a token each: the one that follows
    hidden: int = 0  # of its last tokens, whose hidden states are wanted


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass. Workers run plans in the order in which they get them; that order makes it safe to hand a freed
    cache block to another sequence in a later plan.
    """

    number: int
    chunks: tuple[Chunk, ...]
    new: tuple[NewSequence, ...] = ()
    forget: tuple[int, ...] = ()  # sequences that ended or were preempted; forgotten before `new` is learned

    def __reduce__(self) -> tuple[Callable[..., StepPlan], tuple[object, ...]]:
        chunks = [
            (id, tokens, at, _packed(blocks), samples, hidden)
            for id, tokens, at, blocks, samples, hidden in self.chunks
        ]
        return _plan, (self.number, chunks, self.new, self.forget)

    @property
    def ahead(self) -> bool:
        """Whether the step continues from tokens that the step before chooses."""
        return any(chunk.tokens == (LATEST,) for chunk in self.chunks)


class SampledToken(NamedTuple):
    """A token that was chosen. A chunk that samples at several tokens has one for each, in order, up to the first that
    differs from what the chunk goes on with: later ones would follow a token that is not in the sequence. Of a prompt
    whose log-probabilities are wanted, they are the tokens that are known to follow.
    """

    seq_id: int
    token: int  # or NOT_FINITE
    logprob: float | None = None  # natural log, of the model's own distribution (before penalties and temperature)
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens, best first


class HiddenStates(NamedTuple):
    """The hidden states of a chunk's last tokens, after the final norm."""

    seq_id: int
    rows: NDArray[np.float32]  # (chunk.hidden, hidden size)


@dataclass(frozen=True, slots=True)
class StepResult:
    number: int
    sampled: tuple[SampledToken, ...]
    hidden: tuple[HiddenStates, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., StepResult], tuple[object, ...]]:
        return _result, (self.number, [tuple(token) for token in self.sampled], self.hidden)


class TokenEvent(NamedTuple):
    """What the scheduler tells a request's owner. `sampled` is None only when a request ends with hidden states."""

    seq_id: int
    sampled: SampledToken | None
    finish: FinishReason | None = None
    cached: int = 0  # prompt tokens whose cache entries were reused
    hidden: NDArray[np.float32] | None = None  # (1 or all tokens, hidden size)
    prompt: tuple[SampledToken, ...] = ()  # with the first token, those of the prompt that follow one, if asked for
    guesses: tuple[int, int] = (0, 0)  # with the last token: how many were made for this request, and were right


def _packed(blocks: Sequence[int]) -> bytes:
    return (blocks if isinstance(blocks, array) else block_table(blocks)).tobytes()


def _plan(number: int, chunks: Iterable[Any], new: tuple[NewSequence, ...], forget: tuple[int, ...]) -> StepPlan:
    made = [
        Chunk(id, tokens, at, array("i", packed), samples, hidden) for id, tokens, at, packed, samples, hidden in chunks
    ]
    return StepPlan(number, tuple(made), new, forget)


def _result(number: int, sampled: Iterable[Any], hidden: tuple[HiddenStates, ...]) -> StepResult:
    return StepResult(number, tuple([SampledToken(*token) for token in sampled]), hidden)
