"""What a sampler is asked when sequences decode."""

from __future__ import annotations

from collections.abc import Iterable

from rowspan.scheduler.batch import LATEST, Chunk


def one_token_each(seq_ids: Iterable[int]) -> list[Chunk]:
    """Chunks that sample one token. What else a sampler does not look at is made up."""
    return [Chunk(seq_id, (LATEST,), 0, (), samples=1) for seq_id in seq_ids]
