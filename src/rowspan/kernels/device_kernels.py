"""Chooses the implementation of the ops for a device. It imports torch only if torch is to compute, and the compiled
module only when it is needed: not every machine has one.
"""

from __future__ import annotations

from typing import Any

from rowspan.kernels.isa import TRITON, is_native
from rowspan.kernels.ops import Kernels
from rowspan.plan.device import Device


def kernels_for(device: Device, dtype: str, isa: str, threads: int, progress: int = 0) -> Kernels[Any]:
    """The kernels that `rowspan.kernels.isa.kernels_used` names, on a device of this process.

    Args:
        progress: address of the progress counter, see `CpuKernels`; other kernels keep none.

    Raises:
        UsageError: there is no such card.
    """
    if is_native(isa):
        from rowspan.kernels.cpu.kernels import CpuKernels

        return CpuKernels(isa, threads, int8=dtype == "int8", progress=progress)
    if isa == TRITON:
        from rowspan.kernels.triton.open_card import open_triton  # torch: seconds to import

        return open_triton(device, dtype, threads)
    from rowspan.kernels.torch.open_card import open_device

    return open_device(device, dtype, threads)
