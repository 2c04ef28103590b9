"""Chooses the implementation of the ops for a device. Imports torch only where torch is to compute."""

from __future__ import annotations

from typing import Any

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import TRITON, is_native
from rowspan.kernels.ops import Kernels
from rowspan.plan.device import Device


def kernels_for(device: Device, dtype: str, isa: str, threads: int, progress: int = 0) -> Kernels[Any]:
    """The kernels that `rowspan.kernels.isa.kernels_used` names, on a device of this process.

    Args:
        progress: see `CpuKernels`; the others keep none.

    Raises:
        UsageError: there is no such card.
    """
    if is_native(isa):
        return CpuKernels(isa, threads, int8=dtype == "int8", progress=progress)
    if isa == TRITON:
        from rowspan.kernels.triton.open_card import open_triton  # torch: seconds to import

        return open_triton(device, dtype, threads)
    from rowspan.kernels.torch.open_card import open_device

    return open_device(device, dtype, threads)
