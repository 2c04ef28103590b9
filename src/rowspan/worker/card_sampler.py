"""As `rowspan.worker.sampler`, where the logits stay on the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowspan.kernels.ops import Sample
from rowspan.scheduler.batch import NewSequence, SampledToken
from rowspan.worker.history import History
from rowspan.worker.sampling_batch import answered, sampled_tokens, sampling_batch


class CardSampler:
    """Sampling state of all sequences the output rank knows."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._histories: dict[int, History] = {}

    def learn(self, sequence: NewSequence) -> None:
        self._histories[sequence.seq_id] = History.of(sequence)

    def forget(self, seq_id: int) -> None:
        self._histories.pop(seq_id, None)

    def sample(self, seq_ids: Sequence[int], logits: Any) -> tuple[SampledToken, ...]:
        """One token for each sequence from logits (len(seq_ids), vocabulary). Raises DeviceMemoryError."""
        if not seq_ids:
            return ()
        histories = [self._histories[seq_id] for seq_id in seq_ids]
        vocabulary = logits.shape[1]
        batch = sampling_batch(histories, vocabulary)
        answer = answered(lambda batch: self._sample(logits, batch), batch, vocabulary)
        return sampled_tokens(seq_ids, histories, answer)
