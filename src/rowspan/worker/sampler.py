"""Chooses the next token of each sequence from its logits.

The order of the steps is that of llama.cpp's default chain: logit bias, penalties, top_k, top_p, min_p, temperature.
The random number of a token depends on the request's seed and the token's place alone, so a seed gives the same text
after a preemption and whoever shares the step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rowspan.scheduler.batch import NewSequence, SampledToken
from rowspan.scheduler.request import SamplingParams


@dataclass
class _History:
    """What the penalties need to know of a sequence."""

    params: SamplingParams
    tokens: list[int]
    generated: Counter[int]


class Sampler:
    """Sampling state of all sequences the output rank knows."""

    def __init__(self) -> None:
        self._histories: dict[int, _History] = {}

    def learn(self, sequence: NewSequence) -> None:
        tokens = list(sequence.tokens)
        generated = Counter(tokens[sequence.prompt_length :])
        self._histories[sequence.seq_id] = _History(sequence.params, tokens, generated)

    def forget(self, seq_id: int) -> None:
        self._histories.pop(seq_id, None)

    def sample(self, seq_ids: Sequence[int], logits: Tensor) -> tuple[SampledToken, ...]:
        """One token for each sequence from float32 logits (len(seq_ids), vocabulary)."""
        best = logits.argmax(dim=-1).tolist() if len(seq_ids) else []
        return tuple(self._sample_one(*item) for item in zip(seq_ids, logits, best, strict=True))

    def _sample_one(self, seq_id: int, logits: Tensor, likeliest: int) -> SampledToken:
        history = self._histories[seq_id]
        params = history.params
        changed = _penalize(logits, history) if _has_penalties(params) else logits
        if params.temperature > 0:
            token = _draw(changed, params, place=len(history.tokens))
        else:
            token = likeliest if changed is logits else int(changed.argmax())
        history.tokens.append(token)
        history.generated[token] += 1
        if params.logprobs is None:
            return SampledToken(seq_id, token)
        logprobs = torch.log_softmax(logits, dim=-1)
        top = torch.topk(logprobs, min(params.logprobs, logprobs.numel()))
        alternatives = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return SampledToken(seq_id, token, float(logprobs[token]), alternatives)


def _has_penalties(params: SamplingParams) -> bool:
    return bool(
        params.logit_bias or params.repeat_penalty != 1.0 or params.frequency_penalty or params.presence_penalty
    )


def _penalize(logits: Tensor, history: _History) -> Tensor:
    """Logit bias (OpenAI: added), repeat penalty (Keskar et al. 2019, section 4.1), frequency and presence penalties
    (OpenAI: times count, once if present)."""
    params = history.params
    logits = logits.clone()
    if params.logit_bias:
        biases = {token: bias for token, bias in params.logit_bias.items() if 0 <= token < logits.numel()}
        logits[list(biases)] += torch.tensor(list(biases.values()), device=logits.device)
    if params.repeat_penalty != 1.0 and params.repeat_last_n:
        recent = history.tokens if params.repeat_last_n < 0 else history.tokens[-params.repeat_last_n :]
        seen = torch.tensor(sorted(set(recent)), device=logits.device)
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / params.repeat_penalty, values * params.repeat_penalty)
    if (params.frequency_penalty or params.presence_penalty) and history.generated:
        counts = torch.tensor(list(history.generated.values()), dtype=logits.dtype, device=logits.device)
        logits[list(history.generated)] -= params.frequency_penalty * counts + params.presence_penalty
    return logits


def _draw(logits: Tensor, params: SamplingParams, place: int) -> int:
    """Draw from the filtered distribution by inverting its cumulative sum, likeliest token first (ties: lower id)."""
    n_vocab = logits.numel()
    kept = params.top_k if 0 < params.top_k < n_vocab else n_vocab
    if kept < n_vocab:
        order = torch.topk(logits, kept).indices.sort().values  # topk leaves the order of ties open
        order = order[logits[order].argsort(descending=True, stable=True)]
    else:
        order = logits.argsort(descending=True, stable=True)
    ranked = logits[order].double().cpu()
    probabilities = torch.softmax(ranked, dim=-1)
    if params.top_p < 1.0:
        before = probabilities.cumsum(-1) - probabilities
        ranked = ranked[: max(1, int((before < params.top_p).sum()))]
    if params.min_p > 0.0:
        ranked = ranked[: max(1, int((probabilities[: ranked.numel()] >= params.min_p * probabilities[0]).sum()))]
    cumulative = torch.softmax(ranked / params.temperature, dim=-1).cumsum(-1)
    index = int(torch.searchsorted(cumulative, _uniform(params.seed, place) * float(cumulative[-1]), right=True))
    return int(order[min(index, ranked.numel() - 1)])


def _uniform(seed: int | None, place: int) -> float:
    """The random number in [0, 1) of one place of one request: a counter-based generator needs no state."""
    assert seed is not None, "the engine gives every request a seed"
    return float(np.random.Generator(np.random.Philox(key=seed % 2**64, counter=place)).random())
