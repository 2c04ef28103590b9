"""Chooses the implementation of the ops for a device."""

from __future__ import annotations

import torch

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import TORCH
from rowspan.kernels.ops import Kernels
from rowspan.kernels.torch.kernels import TorchKernels


def kernels_for(device: torch.device, dtype: torch.dtype, isa: str, threads: int) -> Kernels:
    """Native kernels for float32 on CPUs that have them; plain torch for every other device and dtype.

    Args:
        isa: of the CPU, from `rowspan.kernels.isa.choose_isa`.
        threads: of the native kernels.
    """
    if device.type == "cpu" and dtype == torch.float32 and isa != TORCH:
        return CpuKernels(isa, threads)
    return TorchKernels(dtype, device)
