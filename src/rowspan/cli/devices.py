"""`rowspan devices`: lists the hardware that this machine computes with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rowspan.rig.probe.cards import Card, Peer
    from rowspan.rig.probe.pci import Link
    from rowspan.rig.probe.rig import Rig
    from rowspan.rig.probe.sample import LinkSample

UNKNOWN = "?"


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    sample: Annotated[
        float,
        typer.Option(
            "--sample", min=0.0, metavar="SECONDS", help="Watch the links for so long; put load on the cards meanwhile."
        ),
    ] = 0.0,
    root: Annotated[Path, typer.Option("--root", help="Folder of a recorded machine; / is this one.")] = Path("/"),
) -> None:
    """List the processor, the memory and the cards of this machine, with their links. Needs no root."""
    from dataclasses import asdict

    from rowspan.cli.open_root import open_root
    from rowspan.kernels.isa import available_isas, card_kernels
    from rowspan.rig.probe.rig import probe
    from rowspan.rig.probe.sample import sample_links

    machine = open_root(root)
    rig = probe(machine)
    kernels = [] if machine.recorded else available_isas()
    on_cards = [] if machine.recorded else card_kernels()
    samples = sample_links(machine, rig.cards, sample) if sample else []
    if as_json:
        found = {"kernels": kernels, "card_kernels": on_cards, "samples": list(map(asdict, samples))}
        typer.echo(json.dumps({**asdict(rig), **found}, indent=2))
    else:
        _show(rig, kernels, on_cards, samples)


def _show(rig: Rig, kernels: Sequence[str], on_cards: Sequence[str], samples: Sequence[LinkSample]) -> None:
    from rowspan.cli.console_output import print_table

    typer.echo(f"{rig.system.distribution or 'Unknown system'}, Linux {rig.system.kernel or UNKNOWN}\n")
    cpu, memory = rig.cpu, rig.memory
    row = (cpu.model, cpu.cores, _size(memory.total or None), _size(memory.free or None))
    print_table("Processor", ("MODEL", "USABLE CORES", "MEMORY", "FREE"), [row])
    sets = (", ".join(cpu.flags) or UNKNOWN, ", ".join(kernels) or UNKNOWN)
    print_table("Instructions", ("SETS", "KERNELS, BEST FIRST"), [sets])
    if rig.cards:
        _show_cards(rig, samples)
        if on_cards:
            slow = "" if len(on_cards) > 1 else " Triton is not installed here: they are several times slower."
            typer.echo(f"Kernels for cards, best first: {', '.join(on_cards)}.{slow}\n")
    for reason in rig.unread:
        typer.echo(f"- could not be read: {reason}")


def _show_cards(rig: Rig, samples: Sequence[LinkSample]) -> None:
    from rowspan.cli.console_output import print_table

    cards = rig.cards
    print_table(
        "Graphics cards",
        ("#", "NAME", "ARCHITECTURE", "MEMORY", "FREE", "DRIVER"),
        [
            (
                number,
                card.name,
                _architecture(card),
                _size(card.memory_total),
                _size(card.memory_free),
                _or(card.driver),
            )
            for number, card in enumerate(cards)
        ],
    )
    print_table(
        "Slots",
        ("#", "ADDRESS", "LINK NOW", "CARD AND SLOT CAN", "LANES", "NUMA NODE", "MEMORY VISIBLE"),
        [
            (number, card.address, *_link(card.link), card.lanes, _or(card.numa_node), _size(card.memory_visible))
            for number, card in enumerate(cards)
        ],
    )
    print_table(
        "Now",
        ("#", "BUSY", "POWER", "LIMIT", "TEMPERATURE", "SCREENS"),
        [
            (number, _or(card.busy, " %"), _or(card.watts, " W"), _or(card.watts_limit, " W"), *_heat_and_screens(card))
            for number, card in enumerate(cards)
        ],
    )
    firmware = [(number, *entry) for number, card in enumerate(cards) for entry in card.firmware]
    if firmware:
        print_table("Firmware", ("#", "PART", "VERSION"), firmware)
    if rig.peers:
        header = ("FROM / TO", *(str(number) for number in range(len(cards))))
        print_table("Peer-to-peer", header, _matrix(cards, rig.peers))
    if samples:
        print_table(
            "Links while watched",
            ("#", "SLOWEST", "FASTEST", "LANES", "BUSIEST"),
            [
                (
                    number,
                    _or(seen.slowest, " GT/s"),
                    _or(seen.fastest, " GT/s"),
                    _or(seen.width),
                    _or(seen.busiest, " %"),
                )
                for number, seen in enumerate(samples)
            ],
        )


def _matrix(cards: Sequence[Card], peers: Sequence[Peer]) -> list[tuple[str, ...]]:
    words = {(peer.source, peer.target): _peer(peer) for peer in peers}
    return [
        (str(number), *(words.get((one.address, other.address), "-") for other in cards))
        for number, one in enumerate(cards)
    ]


def _peer(peer: Peer) -> str:
    if peer.direct is None:
        return UNKNOWN
    return peer.how if peer.direct else f"no {peer.how}".strip()


def _architecture(card: Card) -> str:
    return f"{card.arch or UNKNOWN}{' (integrated)' if card.integrated else ''}"


def _heat_and_screens(card: Card) -> tuple[str, str]:
    screens = UNKNOWN if card.displays is None else ", ".join(card.displays) or "none"
    return _or(card.celsius, " °C"), screens


def _link(link: Link | None) -> tuple[str, str]:
    if link is None:
        return UNKNOWN, UNKNOWN
    now = f"{_or(link.speed, ' GT/s')} x{_or(link.width)}"
    return now, f"{_or(link.best_speed, ' GT/s')} x{_or(link.best_width)}"


def _or(value: float | str | None, unit: str = "") -> str:
    """A value in readable form, with a question mark for an unknown one."""
    if value is None:
        return UNKNOWN
    return f"{value:g}{unit}" if isinstance(value, (int, float)) else f"{value}{unit}"


def _size(size: int | None) -> str:
    from rowspan.plan.explain import memory_text

    return UNKNOWN if size is None else memory_text(size)
