"""How many tokens a step may have, where a card's memory may be full: less after it was, and more again later.

What filled it may be gone in a minute (another program, a driver's buffers), and prompts of smaller steps take longer
for nothing. But a larger step that fails costs all running requests their work, and split models a new start. So a
larger size is tried only after many steps that would have liked it, and twice as many each time the try has failed:
failures get rarer and rarer, whatever the card does.
"""

from __future__ import annotations

PATIENCE = 256  # full steps before the first try: some seconds of nothing but prompts on a fast card


class StepSize:
    """Halved with every failure, doubled after `PATIENCE` full steps, or more."""

    def __init__(self, most: int, least: int) -> None:
        """Args: most, least: tokens of a step, of which there is never more or less."""
        self._most = most
        self._least = least
        self._halvings = 0
        self._patience = PATIENCE
        self._full_steps = 0  # of this size
        self._grown = False  # since the last failure

    @property
    def tokens(self) -> int:
        return max(self._least, self._most >> self._halvings)

    def take_full_step(self) -> None:
        """A step is as large as may be: a larger one would have been welcome."""
        self._full_steps += 1
        if self._halvings and self._full_steps >= self._patience:
            self._halvings -= 1
            self._full_steps = 0
            self._grown = True

    def shrink(self) -> None:
        """A step failed."""
        if self._grown:
            self._patience *= 2
        if self.tokens > self._least:
            self._halvings += 1
        self._full_steps = 0
        self._grown = False
