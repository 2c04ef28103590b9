"""Chooses among a repository's quantizations of one model: the best that fits this machine, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.hub.gguf_files import complete_models, pick

USUAL = "Q4_K_M"  # the usual compromise between size and quality
# Finest first. Above Q8_0 nothing is gained; what is between these names is a matter of taste.
FINEST_FIRST = (
    *("Q8_0", "Q6_K", "Q5_K_M", USUAL, "MXFP4", "Q4_K_S", "IQ4_XS", "Q4_0", "Q3_K_M", "IQ3_XXS", "Q2_K"),
    *("IQ2_M", "IQ2_XXS", "IQ1_M", "IQ1_S"),
)
GENEROUS = 0.5  # of the memory: what weights finer than the usual ones may take, so that long contexts still fit
GIB = 1 << 30


@dataclass(frozen=True)
class Room:
    """Bytes that weights may take on a machine. cards: of all its cards together; 0: it has none. ram: beside them."""

    cards: int
    ram: int


@dataclass(frozen=True)
class Fit:
    """A model's files, and why they were chosen."""

    parts: list[str]
    scheme: str
    why: str


def best_fit(sizes: Mapping[str, int], room: Room) -> Fit | None:
    """The quantization of a repository's model that suits a machine; None if no file has a known scheme in its name,
    if there is only one model, or if a size or the machine's memory is unknown (0).

    The rules, in this order: one finer than the usual that leaves half of the memory free; the finest up to the usual
    that fits; one that fits if a part stays in RAM; the smallest.

    Args:
        sizes: bytes of each file, by name.
    """
    held = {scheme: parts for scheme in FINEST_FIRST if (parts := pick(sizes, scheme)) is not None}
    nbytes = {scheme: sum(sizes[part] for part in parts) for scheme, parts in held.items()}
    memory, where = (room.cards, "the cards'") if room.cards else (room.ram, "this machine's")
    if not held or not all(nbytes.values()) or len(complete_models(sizes)) == 1 or not memory:
        return None
    finer = FINEST_FIRST[: FINEST_FIRST.index(USUAL)]

    def fit(scheme: str, why: str) -> Fit:
        return Fit(held[scheme], scheme, f"{_gib(nbytes[scheme])} of weights {why}")

    for scheme in held:
        if scheme in finer and nbytes[scheme] <= GENEROUS * memory:
            return fit(scheme, f"leave more than half of {where} {_gib(memory)} free")
    usual_or_less = [scheme for scheme in held if scheme not in finer] or list(held)
    for scheme in usual_or_less:
        if nbytes[scheme] <= memory:
            finest = (
                "" if scheme == usual_or_less[0] else f", {usual_or_less[0]}'s {_gib(nbytes[usual_or_less[0]])} not"
            )
            return fit(scheme, f"fit into {where} {_gib(memory)}{finest}")
    for scheme in usual_or_less:
        if room.cards and nbytes[scheme] <= room.cards + room.ram:
            return fit(scheme, f"fit if a part stays in RAM: the cards have room for {_gib(room.cards)}")
    smallest = min(held, key=lambda scheme: nbytes[scheme])
    return fit(smallest, f"are the least there is, but {where} memory has room for {_gib(memory)} only")


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.1f} GiB"
