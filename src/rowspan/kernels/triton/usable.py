"""Which of Triton's kernels this card cannot run: torch does their work for the rest of the process.

That shows when a kernel is first compiled or launched, which for all that a model's steps need is before it serves: see
`rowspan.worker.cache_size.all_widths`. No card's or version's name is asked: what fails is what counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from subprocess import SubprocessError
from types import TracebackType
from typing import TypeVar

from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from rowspan.kernels.torch.card_memory import is_full

log = logging.getLogger(__name__)

Result = TypeVar("Result")
LONGEST = 200  # letters of a cause in a warning: a compiler's may be pages
# What other errors from inside Triton are: its compiler's passes and the driver's refusal to load or launch a kernel,
# no compiler for its launchers, no room to write them.
FROM_TRITON = (RuntimeError, OSError, SubprocessError, ImportError)
# After these nothing runs on the card any more, and whose fault it was is not known.
LOST = ("illegal memory access", "illegal instruction", "misaligned address", "device-side assert", "launch failure")


class UsableKernels:
    """Tries each op on Triton's kernel until that turns out not to be usable."""

    def __init__(self, card: str) -> None:
        self._card = card
        self._unusable: set[tuple[str, Hashable]] = set()
        self._warned: set[str] = set()

    def run(
        self, op: str, on_triton: Callable[[], Result], on_torch: Callable[[], Result], variant: Hashable = None
    ) -> Result:
        """What Triton's kernel works out, or torch's where that cannot be had.

        Args:
            op: as a warning names it, once.
            variant: of the op's kernels, which stand and fall alone.
        """
        if (op, variant) not in self._unusable:
            try:
                return on_triton()
            except Exception as error:
                if not is_unusable(error):
                    raise
                self._unusable.add((op, variant))
                self._warn(op, error)
        return on_torch()

    def lacks(self, op: str) -> bool:
        """Whether torch does some of this op's work."""
        return op in self._warned

    def _warn(self, op: str, error: Exception) -> None:
        if op not in self._warned:
            self._warned.add(op)
            cause = f"{type(error).__name__}: {error}".strip()
            cause = cause if len(cause) <= LONGEST else f"… {cause[-LONGEST:]}"  # the end says it, of a compiler's
            log.warning(
                "%s cannot run Triton's kernel for %s: torch's is used instead, which is slower. (%s)",
                self._card,
                op,
                " ".join(cause.split()),
            )


def is_unusable(error: Exception) -> bool:
    """The kernel cannot be compiled for this card, or not be launched on it: neither is its memory full, nor is the
    card lost, nor is the caller wrong."""
    if isinstance(error, CompilationError | OutOfResources | PTXASError):
        return True
    if not isinstance(error, FROM_TRITON) or is_full(error) or any(words in str(error) for words in LOST):
        return False
    return _raised_in_triton(error.__traceback__)


def _raised_in_triton(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "triton":
            return True
        trace = trace.tb_next
    return False
