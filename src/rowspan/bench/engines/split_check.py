"""Checks whether a split answers as a single device does: greedy tokens, and log-probabilities along the same text.

Splits add the same numbers in another order, so the last bits of logits differ. In float32 that is all:
log-probabilities differ by some 1e-5. In int8 a last bit now and then decides which way an activation is rounded; layer
upon layer that grows until a split is as far from a single device as both are from float32, some 1e-2, and close
choices fall otherwise. So float32 tells whether a split can be trusted; a broken transport shows in the first tokens of
either.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rowspan.bench.engines.steps import numbered_blocks
from rowspan.bench.load.prompts import read_text
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint, with_trusted_routes
from rowspan.engine.group import WorkerGroup
from rowspan.kvcache.groups import CacheLayout
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import Chunk, NewSequence, SampledToken, StepPlan
from rowspan.scheduler.request import SamplingParams
from rowspan.text.tokenizer import Tokenizer

PROMPT, ANSWER = 200, 64  # tokens; the prompt is of whole cache blocks and a part of one
GREEDY = SamplingParams(temperature=0.0, seed=0, logprobs=20)


@dataclass(frozen=True)
class Divergence:
    """How far a split's answer is from a single device's.

    tokens: number of tokens compared.
    equal: number of greedy tokens before the first that differs.
    logprob: mean difference in nats between the log-probabilities of the single device's tokens; infinite if one of
        these is not among the split's 20 likeliest.
    """

    tokens: int
    equal: int
    logprob: float

    def fields(self) -> dict[str, Any]:
        """The comparison as fields of a row."""
        return {"check_tokens": self.tokens, "check_equal": self.equal, "check_logprob": self.logprob}


def compare(wanted: Sequence[SampledToken], free: Sequence[SampledToken], forced: Sequence[SampledToken]) -> Divergence:
    """Compare a single device's answer with two of a split: one that it chose freely, and one that was forced to follow
    the single device's tokens.
    """
    pairs = list(zip(wanted, free, strict=True))
    equal = next((place for place, (a, b) in enumerate(pairs) if a.token != b.token), len(pairs))
    differences = [difference(a, b) for a, b in zip(wanted, forced, strict=True)]
    return Divergence(len(pairs), equal, statistics.fmean(differences))


class Checker:
    """Compares configurations with a single device; every model is computed on a single device only once."""

    def __init__(self) -> None:
        self._alone: dict[EngineConfig, list[SampledToken]] = {}

    def check(self, config: EngineConfig) -> Divergence:
        """Load a configuration and compare it.

        Raises:
            RowspanError: it could not be loaded, or failed.
        """
        config = replace(config, context_size=PROMPT + ANSWER, cache_tokens=None, parallel=1)
        single = replace(
            config, devices=config.devices[:1], split_mode=SplitMode.NONE, tensor_split=None, main_gpu=0, stages=1
        )
        if single not in self._alone:
            self._alone[single] = answers(single)[0]
        wanted = self._alone[single]
        forced, free = answers(config, [sampled.token for sampled in wanted])
        return compare(wanted, free, forced)


def answers(
    config: EngineConfig, forced: Sequence[int] | None = None, length: int = ANSWER
) -> tuple[list[SampledToken], ...]:
    """Sample `length` tokens after a prompt of `PROMPT` tokens, twice: once with `forced` tokens fed back, and once
    with the greedy choices themselves; without `forced` tokens only the latter.

    Raises:
        RowspanError: the configuration could not be loaded, or failed.
    """
    blueprint = with_trusted_routes(make_blueprint(config))
    group = WorkerGroup(blueprint.setups(), config.hang_seconds)
    try:
        prompt = Tokenizer.from_metadata(blueprint.checkpoint.metadata).encode(read_text(None))[:PROMPT]
        if forced is None:
            return (_answer(group, blueprint.cache_layout, 0, prompt, None, length),)
        first = _answer(group, blueprint.cache_layout, 0, prompt, forced, length)
        return first, _answer(group, blueprint.cache_layout, 1, prompt, None, length)
    finally:
        group.close()


def _answer(
    group: WorkerGroup,
    layout: CacheLayout,
    sequence: int,
    prompt: Sequence[int],
    forced: Sequence[int] | None,
    length: int,
) -> list[SampledToken]:
    known, done, answer = list(prompt), 0, list[SampledToken]()
    new: tuple[NewSequence, ...] = (NewSequence(sequence, (), 0, GREEDY),)
    while len(answer) < length:
        end = min(len(known), done + layout.step_tokens)
        blocks = numbered_blocks(layout, PROMPT + length, 0, end)
        chunk = Chunk(sequence, tuple(known[done:end]), done, blocks, int(end == len(known)))
        result = group.run(StepPlan(1000 * sequence + len(answer), (chunk,), new))
        new, done = (), end
        for sampled in result.sampled:
            known.append(sampled.token if forced is None else forced[len(answer)])
            answer.append(sampled)
    return answer


def difference(one: SampledToken, other: SampledToken) -> float:
    """Absolute difference between two log-probabilities of the first answer's token; infinite if the other answer does
    not list it among its likeliest.
    """
    theirs = dict(other.top).get(one.token, -math.inf)
    assert one.logprob is not None, "log-probabilities were asked for"
    return abs(one.logprob - theirs)
