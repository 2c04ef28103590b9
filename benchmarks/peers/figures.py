"""What is measured, and what Rowspan has promised of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One rate, in tokens per second: of the prompt's tokens where none are generated, else of the generated ones, all
    sequences together."""

    n_prompt: int
    n_gen: int = 0
    n_depth: int = 0
    n_sequences: int = 1

    @property
    def name(self) -> str:
        if self.n_sequences > 1:
            return f"{self.n_sequences} × tg{self.n_gen} after pp{self.n_prompt}"
        return (f"tg{self.n_gen}" if self.n_gen else f"pp{self.n_prompt}") + (
            f" @ d{self.n_depth}" * bool(self.n_depth)
        )


@dataclass(frozen=True)
class Target:
    """Ratios to the best peer. goal_share: the goal is this share of the ceiling instead."""

    floor: float
    goal: float = 0.0
    goal_share: float = 0.0


PP512 = Figure(512)
PP4096 = Figure(4096)
TG128 = Figure(0, 128)
TG64_DEEP = Figure(0, 64, n_depth=4096)
SEQUENCES = Figure(64, 64, n_sequences=16)
FIGURES = (PP512, PP4096, TG128, TG64_DEEP, SEQUENCES)

SMALL_MODEL = 500_000_000  # parameters; the promises for SmolLM2-135M differ from those for 1B
HELD_BACK = Target(1.0, 1.3)  # where an instruction set below the machine's best is asked of both


def target(figure: Figure, n_params: int, scheme: str) -> Target:
    """What is promised of a figure on the machine's best instruction set."""
    return {
        PP512: Target(1.2 if n_params < SMALL_MODEL else 1.3, 2.5),
        PP4096: Target(1.3, 2.5),
        TG128: Target(1.1, goal_share=0.95) if scheme == "Q8_0" else Target(1.3, 1.8),
        TG64_DEEP: Target(1.8, 2.5),
        SEQUENCES: Target(2.5, 5.0),
    }[figure]
