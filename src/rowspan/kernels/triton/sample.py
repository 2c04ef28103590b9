"""Choosing tokens on the card, by the definition in `rowspan.worker.sampler`, for rows that ask for different things.

Nothing waits for the host, and shapes depend on what `SamplingBatch` says of all rows together. Measures of what is
worth a kernel of its own are missing: so far it is torch's argmax, top-k, sort and cumulative sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.sampling import Entries, SamplingBatch


def sample(logits: Tensor, batch: SamplingBatch[Tensor]) -> Tensor:
    """What one copy to the host can take: float64 (N, 1), the tokens. With log-probabilities (N, 2 + 2 n): the token,
    its log-probability, the n most likely tokens, and theirs. A token's id is exact in a float64.

    logits: float32 (N, vocabulary); left as they are.
    """
    likeliest = logits.argmax(-1, keepdim=True)
    highest = logits.gather(1, likeliest)
    changed = _penalize(logits, batch)
    token = likeliest if changed is logits else changed.argmax(-1, keepdim=True)
    if batch.ranked:
        token = torch.where(batch.temperature > 0, _draw(changed, batch), token)
    token = torch.where(highest.isnan(), likeliest, token)  # argmax finds a NaN first: no distribution to draw from
    if batch.alternatives is None:
        return token.double()

    total = torch.exp(logits - highest).sum(-1, keepdim=True, dtype=torch.float64)
    log_sum = highest.double() + total.log()
    columns = [token.double(), logits.gather(1, token).double() - log_sum]
    if batch.alternatives:
        values, tokens = _most_likely(logits, batch.alternatives)
        columns += [tokens.double(), values.double() - log_sum]
    return torch.cat(columns, dim=1)


def _penalize(logits: Tensor, batch: SamplingBatch[Tensor]) -> Tensor:
    """Logit bias, repeat penalty, frequency and presence penalties. Where nobody has any, the logits themselves."""
    changed = logits
    if batch.bias is not None:
        changed = _add(changed, batch.bias)
    if batch.seen is not None:
        values = changed.gather(1, batch.seen)
        penalty = batch.repeat_penalty.float()
        changed = changed.scatter(1, batch.seen, torch.where(values > 0, values / penalty, values * penalty))
    if batch.change is not None:
        changed = _add(changed, batch.change)
    return changed


def _add(logits: Tensor, entries: Entries[Tensor]) -> Tensor:
    # Atomic additions, but of one number and zeros to each place: their order makes no difference.
    return logits.scatter_add(1, entries.tokens, entries.values)


def _draw(logits: Tensor, batch: SamplingBatch[Tensor]) -> Tensor:
    """One token of each row, (N, 1): see `rowspan.worker.sampler`. Each filter keeps a row's first few ranks."""
    values, tokens = _most_likely(logits, batch.ranked)
    ranked = values.double() - values[:, :1].double()
    rank = torch.arange(values.shape[1], device=logits.device)
    kept = rank < batch.top_k
    mass = torch.where(kept, ranked.exp(), 0.0).cumsum(-1)
    within = (mass < batch.top_p * mass[:, -1:]).sum(-1, keepdim=True)
    kept &= (rank <= within) | (batch.top_p >= 1.0)
    kept &= (ranked >= batch.min_logit) | (rank == 0)
    temperature = torch.where(batch.temperature > 0, batch.temperature, 1.0)
    mass = torch.where(kept, (ranked / temperature).exp(), 0.0).cumsum(-1)
    drawn = (mass <= batch.uniform * mass[:, -1:]).sum(-1, keepdim=True)
    drawn = torch.minimum(drawn, kept.sum(-1, keepdim=True) - 1)
    return tokens.gather(1, drawn.clamp(min=0))  # a row of NaN may have kept nothing; it is not drawn from


def _most_likely(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and ids of so many tokens, best first, lower ids first among equals."""
    logits = logits + 0.0  # -0 becomes 0: they are equal, but not so as bits
    vocabulary = logits.shape[1]
    if count >= vocabulary:
        return torch.sort(logits, dim=-1, descending=True, stable=True)
    # Which of equal values torch.topk takes is not defined. So it is given whole numbers that are all different: the
    # value's bits, in the order of the values, and the id below them.
    bits = logits.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    below = torch.arange(vocabulary - 1, -1, -1, device=logits.device)
    keys = torch.topk(ordered * 2**32 + below, count, dim=-1).values
    tokens = vocabulary - 1 - keys % 2**32
    return logits.gather(1, tokens), tokens
