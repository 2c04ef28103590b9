"""Chooses the implementation of the ops for a device. Imports torch only where torch is to compute."""

from __future__ import annotations

from typing import Any

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import TORCH
from rowspan.kernels.ops import Kernels
from rowspan.plan.device import Device


def kernels_for(device: Device, dtype: str, isa: str, threads: int, progress: int = 0) -> Kernels[Any]:
    """The kernels that `rowspan.kernels.isa.kernels_used` names, on a device of this process.

    Args:
        progress: see `CpuKernels`; torch's keep none.

    Raises:
        UsageError: there is no such card.
    """
    if isa != TORCH:
        return CpuKernels(isa, threads, int8=dtype == "int8", progress=progress)
    from rowspan.kernels.torch.open import open_device  # torch: seconds to import

    return open_device(device, dtype, threads)
