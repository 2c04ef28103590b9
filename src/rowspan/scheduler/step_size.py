"""Chooses how many tokens a step may have when a card's memory may be full: fewer after a failure, more again later.

Whatever filled the memory may be gone in a minute (another program, a driver's buffers), and prompts take longer in
smaller steps. But a larger step that fails costs all running requests their work, and split models a new start. So a
larger size is tried only after many steps that would have been larger, and twice as many each time the try has failed:
failures get rarer and rarer, whatever the card does.
"""

from __future__ import annotations

PATIENCE = 256  # full steps before the first try: some seconds of nothing but prompts on a fast card


class StepSize:
    """The most tokens that a step may have: halved with every failure, doubled after `PATIENCE` full steps, or more."""

    def __init__(self, most: int, least: int) -> None:
        """Begin with the largest size. Args: most, least: bounds of the size, in tokens."""
        self._most = most
        self._least = least
        self._halvings = 0
        self._patience = PATIENCE
        self._full_steps = 0  # full steps of the present size
        self._grown = False  # whether the size has grown since the last failure

    @property
    def tokens(self) -> int:
        return max(self._least, self._most >> self._halvings)

    def take_full_step(self) -> None:
        """Note that a step was as large as allowed, so that a larger one would have been useful."""
        self._full_steps += 1
        if self._halvings and self._full_steps >= self._patience:
            self._halvings -= 1
            self._full_steps = 0
            self._grown = True

    def shrink(self) -> None:
        """Halve the size, because a step failed."""
        if self._grown:
            self._patience *= 2
        if self.tokens > self._least:
            self._halvings += 1
        self._full_steps = 0
        self._grown = False
