"""Remembers which of Triton's kernels this card cannot run: torch does their work for the rest of the process.

A kernel fails when it is first compiled or launched, which happens before serving for everything that a model's steps
need: see `rowspan.worker.cache_size.all_widths`. Neither the card nor a version is asked for its name: only failures
count.
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
LONGEST = 200  # characters of a cause shown in a warning: a compiler's may be pages long
# What other errors from inside Triton are: its compiler's passes and the driver's refusal to load or launch a kernel,
# no compiler for its launchers, no room to write them.
FROM_TRITON = (RuntimeError, OSError, SubprocessError, ImportError)
# After these errors nothing runs on the card any more, and it is unknown whose fault it was.
LOST = ("illegal memory access", "illegal instruction", "misaligned address", "device-side assert", "launch failure")


class UsableKernels:
    """Runs each op by Triton's kernel until that turns out to be unusable."""

    def __init__(self, card: str) -> None:
        self._card = card
        self._unusable: set[tuple[str, Hashable]] = set()
        self._warned: set[str] = set()

    def run(
        self, op: str, on_triton: Callable[[], Result], on_torch: Callable[[], Result], variant: Hashable = None
    ) -> Result:
        """The result of Triton's kernel, or of torch's if Triton's cannot run.

        Args:
            op: the op's name in a warning, which is given once.
            variant: the op's kernels that are tried and given up separately from others.
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
            cause = cause if len(cause) <= LONGEST else f"… {cause[-LONGEST:]}"  # a compiler says it at the end
            log.warning(
                "%s cannot run Triton's kernel for %s: torch's is used instead, which is slower. (%s)",
                self._card,
                op,
                " ".join(cause.split()),
            )


def is_unusable(error: Exception) -> bool:
    """Whether an error means that the kernel cannot be compiled for this card, or not be launched on it, rather than
    that memory is full, the card is lost, or the caller is wrong.
    """
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
