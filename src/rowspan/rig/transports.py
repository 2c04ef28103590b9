"""What checks of transports have in common. Who tries them is handed in: `Machine.transports`. No torch here."""

from __future__ import annotations

from collections.abc import Callable

from rowspan.plan.routes import Transport
from rowspan.rig.check import DoesNotApply, Machine, Outcome, found, passed

READS = "random data of a decoding step's size and of a prompt's, between processes (only with --probe)"
HEALTHY = "arrives as sent"


def look_at(transport: Transport, cards: int = 0) -> Callable[[Machine], Outcome]:
    """A check's look at one transport. Args: cards: that it takes at least."""

    def look(machine: Machine) -> Outcome:
        if machine.transports is None:
            raise DoesNotApply("tried with --probe only, and when an engine starts")
        n_cards = len(machine.cards(least=cards)) if cards else 0
        tried = machine.transports(transport, n_cards)
        evidence = [f"{what}: {fault or 'as sent'}" for what, fault in tried.items()]
        return found(*evidence) if any(tried.values()) else passed(*evidence)

    return look
