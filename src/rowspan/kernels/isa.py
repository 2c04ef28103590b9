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


NATIVE_DTYPES = ("int8", "float32")


def kernels_used(wanted: str | None, device_kind: str, dtype: str | None) -> tuple[str, str]:
    """Which kernels run a model, and in which dtype: native ones compute in int8 or float32 on CPUs, torch's kernels do
    everything else.

    Args:
        dtype: as asked for; None: the fastest that keeps answers good.

    Raises:
        UsageError: as `choose_isa`; or int8 where there are no native kernels.
    """
    isa = choose_isa(wanted) if device_kind == "cpu" else TORCH
    if dtype is None:
        dtype = "int8" if isa != TORCH else "float32" if device_kind == "cpu" else "bfloat16"
    if dtype not in NATIVE_DTYPES:
        isa = TORCH
    if dtype == "int8" and isa == TORCH:
        raise UsageError(
            "--dtype int8 cannot be had here.",
            why="Only the native kernels for CPUs round activations to int8.",
            fix="Use --dtype float32 or bfloat16.",
        )
    return isa, dtype


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
