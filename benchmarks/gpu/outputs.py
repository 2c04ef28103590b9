"""Whether a device answers as the oracle does: torch's kernels on the processor, in float32."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from rowspan.bench.engines.split_check import PROMPT, answers, difference
from rowspan.config import EngineConfig
from rowspan.kernels.isa import TORCH
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode

TOKENS = 128
CLOSE = 2e-2  # nats


@dataclass(frozen=True)
class Outputs:
    """equal: greedy tokens before the first that differs. largest, mean: how far log-probabilities of the oracle's
    tokens are from the oracle's, in nats, where both are led along its text."""

    tokens: int
    equal: int
    largest: float
    mean: float

    @property
    def good(self) -> bool:
        return self.equal == self.tokens and self.largest <= CLOSE


def check_outputs(path: Path, device: Device, dtype: str | None) -> Outputs:
    """Raises RowspanError: a device could not compute it."""

    def config(device: Device, dtype: str | None, isa: str | None) -> EngineConfig:
        context = PROMPT + TOKENS
        return EngineConfig(path, (device,), SplitMode.NONE, dtype=dtype, cpu_isa=isa, context_size=context, parallel=1)

    (wanted,) = answers(config(Device("cpu", 0), "float32", TORCH), length=TOKENS)
    forced, free = answers(config(device, dtype, None), [sampled.token for sampled in wanted], TOKENS)
    pairs = list(zip(wanted, free, strict=True))
    equal = next((place for place, (a, b) in enumerate(pairs) if a.token != b.token), len(pairs))
    apart = [difference(a, b) for a, b in zip(wanted, forced, strict=True)]
    return Outputs(TOKENS, equal, max(apart), statistics.fmean(apart))
