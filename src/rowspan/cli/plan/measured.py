"""`rowspan plan MODEL --measure`: measures this processor's ceilings, and compares the forecast from them with measured
speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowspan.engine.blueprint import Blueprint
    from rowspan.plan.rigs.forecast import Forecast

PROMPT, GENERATED = 256, 32  # tokens: enough to tell, few enough to wait for


def measure_plan(blueprint: Blueprint) -> list[dict[str, Any]]:
    """Forecast and measurement of pp and tg, in tokens per second. Takes some seconds beside the time to load the
    model.

    Raises:
        UsageError: there are several ranks, or no native kernels whose speed can be forecast.
        EngineError: a worker could not load.
    """
    from rowspan.bench.engines.native_runner import NativeRunner
    from rowspan.bench.grid import Workload

    foretold = _forecast(blueprint)
    rows = []
    room = blueprint.cache.context_size - 1
    work = (Workload(min(PROMPT, room), 0, 0), Workload(0, min(GENERATED, room), 0))
    with NativeRunner(blueprint) as runner:
        for workload, expected in zip(work, (foretold.pp, foretold.tg), strict=True):
            assert expected is not None, "a processor's prompts are foretold"
            runner.prepare(workload)
            measured = workload.n_tokens * 1e9 / runner.measure(workload).ns
            rows.append(
                {
                    "test": workload.name,
                    "forecast": expected.value,
                    "low": expected.low,
                    "high": expected.high,
                    "measured": measured,
                }
            )
    return rows


def show_measured(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    from rowspan.cli.console_output import print_table

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        interval = f"{row['forecast']:.1f} ({row['low']:.1f}-{row['high']:.1f})"
        return row["test"], interval, f"{row['measured']:.1f}", f"{row['measured'] / row['forecast'] - 1:+.0%}"

    header = ("TEST", "FORECAST, TOKENS/S", "MEASURED", "DIFFERENCE")
    print_table("Forecast and measured", header, map(cells, rows))


def _forecast(blueprint: Blueprint) -> Forecast:
    from rowspan.bench.machine.roofline import measure
    from rowspan.errors import UsageError
    from rowspan.kernels.isa import is_native
    from rowspan.plan.rigs.demand import demand_of
    from rowspan.plan.rigs.forecast_cpu import forecast_processor, processor
    from rowspan.plan.rigs.gguf_outline import read_local
    from rowspan.plan.rigs.outline import outline

    setups = blueprint.setups()
    ceilings = None if not is_native(blueprint.lead.cpu_isa) or len(setups) > 1 else measure(setups[0].threads)
    if ceilings is None:
        raise UsageError(
            "--measure has nothing to forecast from.",
            why="It knows one processor with native kernels, as one device.",
            fix="Leave out --devices and --split-mode, or measure with `rowspan bench`.",
        )
    facts = read_local(blueprint.config.model_path)
    demand = demand_of(outline(facts.spec, facts.listed, facts.infos, facts.scheme), blueprint.lead.cache_dtypes)
    floats, int8 = (ceilings.flops_of(number, blueprint.lead.cpu_isa) for number in ("f32", "int8"))
    card = processor(ceilings.read_bytes_per_second, floats, int8 if blueprint.lead.dtype == "int8" else floats)
    room = blueprint.cache.context_size - 1
    return forecast_processor(demand, card, min(PROMPT, room), min(GENERATED, room))
