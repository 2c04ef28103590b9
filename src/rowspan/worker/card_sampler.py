"""As `rowspan.worker.sampler`, where the logits stay on the card, and so do the tokens until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rowspan.kernels.ops import Sample, pending_token
from rowspan.scheduler.batch import NewSequence, SampledToken
from rowspan.worker.history import History
from rowspan.worker.sampling_batch import sampled_tokens, sampling_batch


class CardSampler:
    """Sampling state of all sequences the output rank knows."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._histories: dict[int, History] = {}
        self._rows: dict[int, int] = {}  # of the last call, by sequence

    def learn(self, sequence: NewSequence) -> None:
        self._histories[sequence.seq_id] = History.of(sequence)

    def forget(self, seq_id: int) -> None:
        self._histories.pop(seq_id, None)

    def latest(self, seq_id: int) -> int:
        """As `StepInputs.tokens` has it: where the card finds the token that the last call chose for a sequence."""
        token: int = pending_token(self._rows[seq_id])
        return token

    def sample(self, seq_ids: Sequence[int], logits: Any) -> Callable[[], tuple[SampledToken, ...]]:
        """Have one token chosen for each sequence from logits (len(seq_ids), vocabulary); returns what waits for them.
        Raises DeviceMemoryError."""
        if not seq_ids:
            return tuple  # part of a prompt: nothing to wait for, the next part can be launched behind it
        self._rows = {seq_id: row for row, seq_id in enumerate(seq_ids)}
        histories = [self._histories[seq_id] for seq_id in seq_ids]
        wait_for_tokens = self._sample(logits, sampling_batch(histories, logits.shape[1]))
        for history in histories:
            history.expect()
        return lambda: sampled_tokens(seq_ids, histories, wait_for_tokens())
