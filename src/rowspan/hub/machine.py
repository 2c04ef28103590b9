"""How large a model this machine can hold, and which of a repository's files are therefore fetched."""

from __future__ import annotations

from collections.abc import Mapping

from rowspan.config import HubConfig
from rowspan.hub.gguf_files import choose
from rowspan.hub.quantization import Room, best_fit
from rowspan.rig.probe.cpu import probe_memory
from rowspan.rig.probe.rig import probe_cards
from rowspan.rig.root import Root

# What weights may take of the memory; the rest is for the cache, activations, drivers, and other programs.
OF_CARDS = 0.85
OF_RAM = 0.7


def room_for_weights(root: Root | None = None) -> Room:
    """Look at the cards and the memory of this machine; cards that are part of the processor count as none."""
    cards = sum(card.memory_total or 0 for card in probe_cards(root) if not card.integrated)
    return Room(int(cards * OF_CARDS), int(probe_memory(root).total * OF_RAM))


def choose_for_machine(
    sizes: Mapping[str, int], choice: str | None, where: str, config: HubConfig
) -> tuple[list[str], str]:
    """The parts of the model that `choice` means, or of the quantization that fits this machine if it is None; and why,
    as the end of a line that names the model.

    Raises:
        ModelNotFoundError: no model, or more than one, fits the choice.
    """
    fit = best_fit(sizes, room_for_weights()) if choice is None and config.choose_by_machine else None
    if fit is None:
        return choose(list(sizes), choice, where), ""
    return fit.parts, f" as {fit.scheme}: {fit.why}"
