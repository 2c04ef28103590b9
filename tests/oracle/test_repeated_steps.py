"""A recorded program that is run over and over: every step does all of its work anew, whatever became of the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kit.native_isas import NATIVE
from kit.quantized import quantized
from kit.run_ops import Floats, one_sequence

from rowspan.comm.base import Comm, SoloGroup
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.ops import Outputs, StepLimits
from rowspan.quant.stored import StoredMatrix

WIDTH = 64


class Neighbours:
    """The stages before and after: gives the arrays one by one, and takes hidden states, but for the n-th time."""

    def __init__(self, arrays: list[Floats], refused: int) -> None:
        self._left, self._refused, self._taken = arrays, refused, 0

    def receive(self, shape: tuple[int, ...]) -> Any:
        return self._left.pop(0)

    def send(self, x: Any) -> None:
        self._taken += 1
        if self._taken == self._refused:
            raise ConnectionError("the next stage is away")


@pytest.mark.parametrize("tokens", [1, 17, 300])
@pytest.mark.parametrize("isa", NATIVE)
def test_a_step_after_one_that_was_broken_off_is_whole(isa: str, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    raw = quantized("Q8_0", WIDTH, WIDTH, rng)
    arrays = [rng.standard_normal((tokens, WIDTH)).astype(np.float32) for _ in range(3)]

    def results(arrays: list[Floats], refused: int) -> list[Floats]:
        kernels = CpuKernels(isa, 3, int8=True)
        weight = kernels.matrix(StoredMatrix.of_blocks("Q8_0", raw))
        neighbours = Neighbours(list(arrays), refused)
        comm = kernels.connect(Comm(SoloGroup(), before=neighbours, after=neighbours))
        before, after = comm.before, comm.after
        assert before is not None
        assert after is not None

        def forward(inputs: Any) -> Any:
            first = kernels.linear(before.receive((tokens, WIDTH)), weight)
            after.send(first)
            return Outputs(kernels.linear(first, weight), None)

        inputs = one_sequence(tokens)
        step = kernels.capture(forward, StepLimits(tokens, tokens, inputs.tables.shape[2], inputs.block_size))
        found = []
        for number in range(1, len(arrays) + 1):
            if number == refused:
                with pytest.raises(ConnectionError):
                    step(inputs)
            else:
                outputs = step(inputs)
                assert outputs is not None
                found.append(np.array(outputs.logits))
        return found

    expected = [results([array], refused=0)[0] for array in arrays]
    for found, whole in zip(results(arrays, refused=2), [expected[0], expected[2]], strict=True):
        assert np.array_equal(found, whole)
