"""Finds out which kernels this machine can run. No torch: the server's process asks, too."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from rowspan.errors import UsageError

# Names used in place of an instruction set when no native kernel computes: plain torch, or Triton's interpreter.
TORCH, TRITON = "torch", "triton"


def is_native(isa: str) -> bool:
    """Whether the compiled CPU kernels compute with this instruction set."""
    return isa not in (TORCH, TRITON)


def native_module() -> Any:
    """The module of compiled kernels; None if there is none for this kind of processor."""
    try:
        return importlib.import_module("rowspan._native")
    except ModuleNotFoundError:
        return None


def available_isas() -> list[str]:
    """Instruction sets that this machine has and that kernels exist for, best first; plain torch is always the last
    resort.
    """
    module = native_module()
    return [*(module.isas() if module is not None else []), TORCH]


def card_kernels() -> list[str]:
    """Kernels for cards that are installed, best first. Triton comes with torch's builds for cards."""
    return [TRITON, TORCH] if importlib.util.find_spec("triton") is not None else [TORCH]


NATIVE_DTYPES = ("int8", "float32")
TRITON_DTYPES = ("bfloat16", "float16")  # types that matrix units multiply at full speed


def kernels_used(
    wanted: str | None, device_kind: str, dtype: str | None, wanted_on_cards: str | None = None
) -> tuple[str, str]:
    """The kernels that run a model, and their dtype: native kernels compute in int8 or float32 on CPUs, Triton's in
    bfloat16 or float16 on cards, torch's in everything else.

    Args:
        wanted: kernels that the user asked for on CPUs; None: the best.
        wanted_on_cards: kernels that the user asked for on cards; None: the best.
        dtype: the dtype that the user asked for; None: the fastest that keeps answers good.

    Raises:
        UsageError: the same as `choose_isa`; or int8 is asked for without native kernels.
    """
    on_cpu = device_kind == "cpu"
    isa = choose_isa(wanted) if on_cpu else choose_card_kernels(wanted_on_cards)
    if dtype is None:
        dtype = "int8" if is_native(isa) else "float32" if isa == TORCH and on_cpu else "bfloat16"
    if dtype not in (TRITON_DTYPES if isa == TRITON else NATIVE_DTYPES):
        isa = TORCH
    if dtype == "int8" and not is_native(isa):
        raise UsageError(
            "--dtype int8 cannot be had here.",
            why="Only the native kernels for CPUs round activations to int8.",
            fix="Use --dtype float32 or bfloat16.",
        )
    return isa, dtype


def choose_isa(wanted: str | None) -> str:
    """The best instruction set, or the one asked for. For tests it may also be Triton's kernels, in Triton's
    interpreter.

    Raises:
        UsageError: this machine cannot run what is asked for.
    """
    isas = available_isas()
    if wanted == TRITON and os.environ.get("TRITON_INTERPRET") == "1":
        return TRITON
    if not wanted:
        return isas[0]
    if wanted not in isas:
        raise UsageError(
            f"ROWSPAN_CPU_ISA={wanted} cannot be had.",
            why=f"This machine and build have kernels for {', '.join(isas)}.",
            fix="Choose one of them, or unset the variable for the best.",
        )
    return wanted


def choose_card_kernels(wanted: str | None) -> str:
    """The best kernels for cards, or those asked for.

    Raises:
        UsageError: they are not installed.
    """
    kernels = card_kernels()
    if not wanted:
        return kernels[0]
    if wanted not in kernels:
        raise UsageError(
            f"ROWSPAN_CARD_KERNELS={wanted} cannot be had.",
            why=f"There are {', '.join(kernels)} here.",
            fix="Choose one of them, or unset the variable for the best.",
        )
    return wanted
