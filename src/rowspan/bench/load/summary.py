"""Summarizes a load test: percentiles, throughput, and how many answers met the goals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.bench.load.drive import LoadOutcome
from rowspan.bench.load.endpoint import EndpointAnswer
from rowspan.errors import UsageError

PERCENTILES = (50, 90, 95, 99)
# Names are vLLM's. itl: each gap between two parts of an answer; tpot: mean time of an answer's tokens after its first.
MEASURES = {
    "ttft": "time to first token",
    "itl": "inter-token latency",
    "tpot": "time per token",
    "e2e": "whole answer",
}
_GOAL = re.compile(r"\s*(ttft|itl|tpot|e2e)\s*[<=]\s*(\d+(?:\.\d+)?)\s*(ms|s)\s*")


@dataclass(frozen=True)
class Goals:
    """The most seconds that an answer may take, by measure; of gaps, every one."""

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Goals:
        """Read goals such as "ttft<500ms,itl<50ms".

        Raises:
            UsageError: the text is not of this form.
        """
        limits = {}
        for part in filter(None, text.split(",")):
            match = _GOAL.fullmatch(part)
            if match is None:
                raise UsageError(
                    f"--slo {part!r} is no goal.", fix=f"Write ttft<500ms,itl<50ms,e2e<10s: {', '.join(MEASURES)}."
                )
            limits[match[1]] = float(match[2]) / (1000 if match[3] == "ms" else 1)
        return cls(limits)

    def met_by(self, answer: EndpointAnswer) -> bool:
        """Whether an answer met every goal; an answer of a single token has no latency between tokens to miss."""
        times = measured(answer)
        return all(value <= limit for name, limit in self.limits.items() for value in times[name])


def measured(answer: EndpointAnswer) -> dict[str, list[float]]:
    """An answer's seconds by measure: one or none of an answer, and of gaps as many as there are."""
    per_token = [] if answer.between is None else [answer.between]
    return {"ttft": [answer.first], "itl": answer.gaps, "tpot": per_token, "e2e": [answer.whole]}


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile by linear interpolation between the two nearest values, as numpy computes it."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(outcome: LoadOutcome, goals: Goals, joules: float | None) -> dict[str, Any]:
    """Figures for programs and tables, in seconds. None: unknown.

    Args:
        joules: energy that this machine used during the test.
    """
    answers = outcome.answers
    span = max(one.arrivals[-1] for one in answers) - min(one.started for one in answers) if answers else 0.0
    tokens = sum(one.tokens for one in answers)
    prompts = [one.prompt_tokens for one in answers if one.prompt_tokens is not None]
    cached = [one.cached_tokens for one in answers if one.cached_tokens is not None]
    good = sum(goals.met_by(one) for one in answers)
    return {
        "requests": outcome.done,
        "answered": len(answers),
        "failed": len(outcome.failures),
        "failures": dict(Counter(str(failure) for failure in outcome.failures)),
        "seconds": span,
        "requests_per_second": len(answers) / span if span else None,
        "generated_tokens": tokens,
        "generated_tokens_per_second": tokens / span if span else None,
        "prompt_tokens": sum(prompts) if prompts else None,
        "prompt_tokens_per_second": sum(prompts) / span if prompts and span else None,
        "cached_tokens": sum(cached) if cached else None,
        "tokens_counted_by": "usage" if any(one.generated_tokens for one in answers) else "parts of the stream",
        **{name: _percentiles(answers, name) for name in MEASURES},
        "goals": dict(goals.limits),
        "good": good if goals.limits else None,
        "goodput_requests_per_second": good / span if goals.limits and span else None,
        "joules_per_token": joules / tokens if joules is not None and tokens else None,
    }


def _percentiles(answers: Sequence[EndpointAnswer], name: str) -> dict[str, float] | None:
    values = [value for one in answers for value in measured(one)[name]]
    if not values:
        return None
    found = {f"p{each}": percentile(values, each) for each in PERCENTILES}
    return {"mean": sum(values) / len(values), **found, "max": max(values)}


def usage_problems(answer: EndpointAnswer, limit: int) -> list[str]:
    """Describe errors in the endpoint's own token counts.

    Args:
        answer: an answer for which the endpoint was asked to name every token.
        limit: number of generated tokens that was asked for.
    """
    counted, usage = answer.counted_tokens, answer.generated_tokens
    if usage is None:
        return ["The endpoint does not count tokens (no usage at the end of the stream): parts are counted instead."]
    found = []
    # An end token is generated and counted, but need not be named.
    if counted is not None and not counted <= usage <= counted + 1:
        found.append(f"The endpoint counts {usage} generated tokens, and has named {counted}.")
    if counted is None and len(answer.arrivals) > usage:
        found.append(f"The endpoint counts {usage} generated tokens, and has sent {len(answer.arrivals)} parts.")
    if usage > limit:
        found.append(f"The endpoint counts {usage} generated tokens, where at most {limit} were asked for.")
    return found
