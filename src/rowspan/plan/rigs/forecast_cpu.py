"""Forecasts speed on a processor whose ceilings have been measured, rather than taken from a data sheet."""

from __future__ import annotations

import math

from rowspan.plan.rigs.demand import ModelDemand, Run
from rowspan.plan.rigs.forecast import Constants, Forecast, forecast
from rowspan.plan.rigs.planned_rig import CardSpec, MemoryKind
from rowspan.plan.split_mode import SplitMode

# Shares of measured ceilings that the native kernels reach, from docs/performance.md: with these two, the forecast
# agrees with the tg of a 1B and of a 135M model on the same machine. Products reach 20 to 45 % of the 8-bit units'
# ceiling.
CPU = Constants(
    values={"read": math.log(0.87), "layer": math.log(71e-6), "compute": math.log(0.35)},
    spread={"tg/seen": math.log(1.2), "pp/seen": math.log(1.5)},
    kinds=frozenset({"cpu"}),
)


def processor(read_bytes_per_second: float, float_flops: float, int8_ops: float) -> CardSpec:
    """Describe a processor as a card, by its ceilings: bytes per second read from memory, and operations per second
    computed in registers.
    """
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
    """Forecast the speed of the native engine on one rank."""
    return forecast(demand, Run((card,), SplitMode.NONE), prompt=prompt, generated=generated, constants=CPU)
