"""The forecast for a processor whose ceilings have been measured, instead of taken from a data sheet."""

from __future__ import annotations

import math

from rowspan.plan.demand import ModelDemand, Run
from rowspan.plan.forecast import Constants, Forecast, forecast
from rowspan.plan.planned_rig import CardSpec, MemoryKind
from rowspan.plan.split_mode import SplitMode

# What the native kernels reach of measured ceilings, from docs/performance.md: with these two, the tg of a 1B and of a
# 135M model on the same machine are both met; of products on 8-bit units they reach 20 to 45 %.
CPU = Constants(
    values={"read": math.log(0.87), "layer": math.log(71e-6), "compute": math.log(0.35)},
    spread={"tg/seen": math.log(1.2), "pp/seen": math.log(1.5)},
    kinds=frozenset({"cpu"}),
)


def processor(read_bytes_per_second: float, float_flops: float, int8_ops: float) -> CardSpec:
    """A processor as a card, by its ceilings: what can be read of memory, and computed out of registers, a second."""
    return CardSpec(
        name="this processor",
        vendor="cpu",
        arch="cpu",
        memory=0,
        memory_kind=MemoryKind.UNIFIED,
        bandwidth=read_bytes_per_second,
        fp16_flops=float_flops,
        int8_ops=int8_ops,
        interconnect="",
        peer_copies=False,
        tdp=0.0,
        slots=None,
        form="processor",
        price=None,
    )


def forecast_processor(demand: ModelDemand, card: CardSpec, prompt: int, generated: int) -> Forecast:
    """Of the native engine on one rank."""
    return forecast(demand, Run((card,), SplitMode.NONE), prompt=prompt, generated=generated, constants=CPU)
