"""What a step's rows ask of the sampler, as arrays: built by `rowspan.worker.sampling_batch`, used on a card. No torch.

Nothing in it has the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Array = TypeVar("Array")
Other = TypeVar("Other")


class Entries(NamedTuple, Generic[Array]):
    """Numbers to add to some of each row's logits, padded with 0 for token 0. No token twice, padding aside."""

    tokens: Array  # int64 (N, n)
    values: Array  # float32 (N, n)


@dataclass(frozen=True)
class SamplingBatch(Generic[Array]):
    """N rows. Arrays of NumPy on the host, tensors on the card; `map` makes one of the other."""

    temperature: Array  # float64 (N, 1), as are all that follow; 0 = greedy
    top_k: Array  # the vocabulary's size = off
    top_p: Array  # 1 = off
    min_logit: Array  # log(min_p), below the highest logit; -infinity = off
    uniform: Array  # in [0, 1)
    repeat_penalty: Array

    bias: Entries[Array] | None
    seen: Array | None  # int64 (N, n): tokens that the repeat penalty is for; padded by repeating one of them
    change: Entries[Array] | None  # frequency and presence penalties, negated

    # What the host knows of all rows together, and launches depend on.
    ranked: int  # most likely tokens that are put in order for draws: at least top_k, where that is on; 0: all greedy
    alternatives: int | None  # most likely tokens whose log-probabilities are wanted; None: no log-probabilities at all

    def map(self, move: Callable[[Array], Other]) -> SamplingBatch[Other]:
        def entries(of: Entries[Array] | None) -> Entries[Other] | None:
            return None if of is None else Entries(move(of.tokens), move(of.values))

        return SamplingBatch(
            move(self.temperature),
            move(self.top_k),
            move(self.top_p),
            move(self.min_logit),
            move(self.uniform),
            move(self.repeat_penalty),
            entries(self.bias),
            None if self.seen is None else move(self.seen),
            entries(self.change),
            self.ranked,
            self.alternatives,
        )
