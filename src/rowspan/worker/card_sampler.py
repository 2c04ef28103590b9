"""Samples like `rowspan.worker.sampler`, but on the card, where logits stay, and tokens until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rowspan.kernels.ops import Sample, pending_token
from rowspan.scheduler.batch import Chunk, NewSequence, SampledToken
from rowspan.worker.history import History, TokenChoice
from rowspan.worker.logits_processors import MakeProcessors, logits_processors
from rowspan.worker.sampling_batch import sampled_tokens, sampling_batch


class CardSampler:
    """Sampling state of all sequences the output rank knows."""

    def __init__(self, sample: Sample, processors: MakeProcessors = logits_processors) -> None:
        self._sample = sample
        self._processors = processors
        self._histories: dict[int, History] = {}
        self._rows: dict[int, int] = {}  # of the last call: each sequence's last

    def learn(self, sequence: NewSequence) -> None:
        self._histories[sequence.seq_id] = History.of(sequence, self._processors)

    def forget(self, seq_id: int) -> None:
        self._histories.pop(seq_id, None)

    def latest(self, seq_id: int) -> int:
        """Where the card finds the token that the last call chose for a sequence, in the form that `StepInputs.tokens`
        takes.
        """
        token: int = pending_token(self._rows[seq_id])
        return token

    def sample(self, chunks: Sequence[Chunk], logits: Any) -> Callable[[], tuple[SampledToken, ...]]:
        """Have tokens chosen for chunks that sample, from logits (sum of their samples, vocabulary); returns what waits
        for them. Raises DeviceMemoryError."""
        if not chunks:
            return tuple  # part of a prompt: nothing to wait for, the next part can be launched behind it
        vocabulary = logits.shape[1]
        histories = [self._histories[chunk.seq_id] for chunk in chunks]
        choices, self._rows = list[TokenChoice](), {}
        for chunk, history in zip(chunks, histories, strict=True):
            if chunk.samples == 1:
                choices.append(history.choice(vocabulary))
            else:
                choices += [history.choice(vocabulary) for _ in history.at_each(chunk)]
            self._rows[chunk.seq_id] = len(choices) - 1
        wait_for_tokens = self._sample(logits, sampling_batch(choices, vocabulary))
        for chunk, history in zip(chunks, histories, strict=True):
            if chunk.samples == 1:
                history.expect()
        return lambda: sampled_tokens(chunks, histories, wait_for_tokens())
