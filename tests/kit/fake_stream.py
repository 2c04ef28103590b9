"""A card that is not there and works by itself, in the order in which it is told, as real ones do."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from kit import triton_device  # noqa: F401  # before any kernel
from kit.fake_card import FakeCard, FakeCardKernels
from numpy.typing import NDArray

from rowspan.kernels.ops import Outputs, Step, StepInputs, WaitForTokens, pending_token
from rowspan.kernels.sampling import SamplingBatch
from rowspan.kernels.triton.sampling.choose_tokens import sample, torch_draw_beyond, torch_rank_keys


@dataclass(frozen=True)
class Promise:
    """Logits (L, vocabulary) that are still computed."""

    shape: tuple[int, int]
    outputs: Future[Outputs[NDArray[np.float32]]]


class StreamKernels(FakeCardKernels):
    """Torch's kernels on such a card, which samples, too."""

    def __init__(self, card: FakeCard, vocabulary: int) -> None:
        super().__init__(card)
        self._stream = ThreadPoolExecutor(1)
        self._vocabulary = vocabulary
        self._chosen = np.zeros(0, np.int64)
        self._samples = 0

    def launch(self, compute: Step, inputs: StepInputs) -> Outputs[Promise]:
        def work() -> Outputs[NDArray[np.float32]]:
            taken = np.flatnonzero(inputs.tokens < 0)
            inputs.tokens[taken] = self._chosen[pending_token(inputs.tokens[taken])]
            outputs: Outputs[NDArray[np.float32]] = compute(inputs)
            return outputs

        rows = inputs.output_rows if inputs.logit_rows is None else inputs.logit_rows
        future = self._stream.submit(work)
        hidden: Any = None if inputs.hidden_rows is None else future.result().hidden
        return Outputs(Promise((len(rows), self._vocabulary), future), hidden)

    def sample(self, promise: Promise, batch: SamplingBatch[NDArray[np.generic]]) -> WaitForTokens:  # type: ignore[override]
        def work() -> NDArray[np.float64]:
            time.sleep(self.card.step_seconds)
            if self.card.broken:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            answer: NDArray[np.float64]
            asked = batch.map(torch.from_numpy)
            answer = sample(
                torch.from_numpy(promise.outputs.result().logits), asked, torch_rank_keys, torch_draw_beyond
            ).numpy()
            self._chosen = answer[:, 0].astype(np.int64)
            return answer

        future, self._samples = self._stream.submit(work), self._samples + 1
        number = self._samples
        self.card.log.append(f"launched {number}")

        def wait_for_tokens() -> NDArray[np.float64]:
            answer = future.result()
            self.card.log.append(f"fetched {number}")
            return answer

        return wait_for_tokens
