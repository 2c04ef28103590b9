"""Which native kernels this machine can run. No torch: the server's process asks, too."""

from __future__ import annotations

import importlib
from typing import Any

from rowspan.errors import UsageError

TORCH = "torch"  # what an instruction set is called where plain torch is to do the work


def native_module() -> Any:
    """The compiled kernels; None where there are none for this kind of processor."""
    try:
        return importlib.import_module("rowspan._native")
    except ModuleNotFoundError:
        return None


def available_isas() -> list[str]:
    """Instruction sets with kernels that this machine can run, best first; plain torch is always the last resort."""
    module = native_module()
    return [*(module.isas() if module is not None else []), TORCH]


def kernels_used(wanted: str | None, device_kind: str, dtype: str) -> str:
    """Which kernels run a model: native ones are for float32 on CPUs, torch's for everything else.

    Raises:
        UsageError: as `choose_isa`.
    """
    isa = choose_isa(wanted)
    return isa if device_kind == "cpu" and dtype == "float32" else TORCH


def choose_isa(wanted: str | None) -> str:
    """The best one, or the one asked for.

    Raises:
        UsageError: this machine cannot run what is asked for.
    """
    isas = available_isas()
    if not wanted:
        return isas[0]
    if wanted not in isas:
        raise UsageError(
            f"ROWSPAN_CPU_ISA={wanted} cannot be had.",
            why=f"This machine and build have kernels for {', '.join(isas)}.",
            fix="Choose one of them, or unset the variable for the best.",
        )
    return wanted
