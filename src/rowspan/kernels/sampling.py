"""What a step's rows ask of the sampler, as arrays: built by `rowspan.worker.sampling_batch`, used on a card. No torch.

Of the vocabulary's size are only masks, in bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Array = TypeVar("Array")
Other = TypeVar("Other")


NOT_FINITE = -1
"""Stands for a token where there is none to choose: the row's highest logit is no number, or infinite."""


class Additions(NamedTuple, Generic[Array]):
    """Numbers to add to some of each row's logits, padded with 0 for token 0. No token twice, padding aside."""

    tokens: Array  # int64 (N, n)
    values: Array  # float32 (N, n)


class Penalties(NamedTuple, Generic[Array]):
    """Some of each row's logits are divided by its factor where they are positive, else multiplied by it."""

    tokens: Array  # int64 (N, n), padded by repeating one of them
    factors: Array  # float32 (N, 1); 1 = off


class Masks(NamedTuple, Generic[Array]):
    """Some rows may have some tokens only: all others' logits become minus infinity."""

    rows: Array  # int64 (M,): which rows
    bitmaps: Array  # uint8 (M, at least vocabulary / 8): token t is allowed if bit t % 8 of byte t // 8 is set


Changes = Additions[Array] | Penalties[Array] | Masks[Array]


@dataclass(frozen=True)
class SamplingBatch(Generic[Array]):
    """Sampling parameters of N rows: NumPy's arrays on the host, tensors on the card; `map` converts them."""

    temperature: Array  # float64 (N, 1), as are all that follow; 0 = greedy
    top_k: Array  # the vocabulary's size = off
    top_p: Array  # 1 = off
    min_logit: Array  # log(min_p), below the highest logit; -infinity = off
    uniform: Array  # in [0, 1)

    changes: tuple[Changes[Array], ...]  # of the logits, before all else, in this order

    # What the host knows of all rows together, and launches depend on.
    ranked: int  # most likely tokens that are put in order for draws: at least top_k, where that is on; 0: all greedy
    alternatives: int | None  # most likely tokens whose log-probabilities are wanted; None: no log-probabilities at all

    def map(self, move: Callable[[Array], Other]) -> SamplingBatch[Other]:
        def moved(changes: Changes[Array]) -> Changes[Other]:
            match changes:
                case Additions(tokens, values):
                    return Additions(move(tokens), move(values))
                case Penalties(tokens, factors):
                    return Penalties(move(tokens), move(factors))
                case Masks(rows, bitmaps):
                    return Masks(move(rows), move(bitmaps))

        return SamplingBatch(
            move(self.temperature),
            move(self.top_k),
            move(self.top_p),
            move(self.min_logit),
            move(self.uniform),
            tuple([moved(changes) for changes in self.changes]),
            self.ranked,
            self.alternatives,
        )
