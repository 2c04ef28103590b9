"""The code that all checks of transports share. `Machine.transports` does the trying, so that no torch is needed
here.
"""

from __future__ import annotations

from collections.abc import Callable

from rowspan.plan.routes import Transport
from rowspan.rig.check import Machine, NotTried, Outcome, found, passed

READS = "random data of a decoding step's size and of a prompt's, between processes (only with --probe)"
HEALTHY = "arrives as sent"


def look_at(transport: Transport, cards: int = 0) -> Callable[[Machine], Outcome]:
    """Make a check's function that tries one transport. Args: cards: the least number of cards that the transport
    needs.
    """

    def look(machine: Machine) -> Outcome:
        if machine.transports is None:
            raise NotTried("tried with --probe only, and when an engine starts")
        n_cards = len(machine.cards(least=cards)) if cards else 0
        tried = machine.transports(transport, n_cards)
        evidence = [f"{what}: {fault or 'as sent'}" for what, fault in tried.items()]
        return found(*evidence) if any(tried.values()) else passed(*evidence)

    return look
