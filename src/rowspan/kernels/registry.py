"""Chooses the implementation of the ops for a device."""

from __future__ import annotations

import torch

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import TORCH
from rowspan.kernels.ops import Kernels
from rowspan.kernels.torch.kernels import TorchKernels


def kernels_for(device: torch.device, dtype: torch.dtype, isa: str, threads: int) -> Kernels:
    """The kernels that `rowspan.kernels.isa.kernels_used` names.

    Args:
        threads: of native kernels.
    """
    return TorchKernels(dtype, device) if isa == TORCH else CpuKernels(isa, threads)
