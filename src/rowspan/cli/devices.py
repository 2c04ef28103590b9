"""`rowspan devices`: what this machine computes with."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def devices(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """List the processor, the memory and the graphics cards of this machine."""
    from rowspan.bench.environment import probe_cards, probe_cpu, probe_memory
    from rowspan.cli.console_output import print_table
    from rowspan.kernels.isa import available_isas
    from rowspan.plan.explain import memory_text

    cpu, memory, cards = probe_cpu(), probe_memory(), probe_cards()
    kernels = available_isas()
    if as_json:
        answer = {
            "cpu": asdict(cpu),
            "kernels": kernels,
            "memory": asdict(memory),
            "cards": [asdict(card) for card in cards],
        }
        typer.echo(json.dumps(answer, indent=2))
        return

    def text(size: int | None) -> str:
        return "unknown" if size is None else memory_text(size)

    processor = (cpu.model, cpu.cores, ", ".join(cpu.flags), ", ".join(kernels), text(memory.total), text(memory.free))
    print_table(
        "Processor", ("MODEL", "USABLE CORES", "INSTRUCTION SETS", "KERNELS, BEST FIRST", "MEMORY", "FREE"), [processor]
    )
    if cards:
        rows = [(card.name, text(card.memory_total), text(card.memory_free)) for card in cards]
        print_table("Graphics cards", ("NAME", "MEMORY", "FREE"), rows)
