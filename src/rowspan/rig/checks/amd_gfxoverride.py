"""Check: HSA_OVERRIDE_GFX_VERSION does not make a supported AMD card pretend to be another architecture."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import kfd

VARIABLE = "HSA_OVERRIDE_GFX_VERSION"
# Architectures that ROCm ships kernels for: its compatibility matrix, and gfx906, which it did ship.
SUPPORTED = frozenset(
    ("gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1200", "gfx1201", "gfx1151")
)


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD")
    value = machine.root.environment.get(VARIABLE)
    if value is None:
        return passed(f"{VARIABLE} is not set in this environment")
    if any(card.arch is None for card in cards):
        kfd.gpu_nodes(machine.root)  # says why the architecture cannot be told
    architectures = ", ".join(sorted({card.arch or "an unknown architecture" for card in cards}))
    if not any(card.arch in SUPPORTED for card in cards):
        raise DoesNotApply(f"{VARIABLE}={value} is meant for {architectures}")
    return found(f"{VARIABLE}={value}, and the cards are {architectures}")


CHECK = Check(
    id="amd.gfxoverride",
    title="No pretended architecture",
    reads=(VARIABLE,),
    healthy="not set for cards that ROCm supports",
    symptom="Kernels of another architecture are run: crashes, wrong results, or slow ones.",
    fix=Fix("Unset it, also in the service's or container's settings.", {"": (f"unset {VARIABLE}",)}),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.MEDIUM,
    sources=("https://rocm.docs.amd.com/en/latest/compatibility/compatibility-matrix.html",),
    look=look,
)
