"""Chooses the implementation of the ops for a device."""

from __future__ import annotations

import torch

from rowspan.kernels.ops import Kernels
from rowspan.kernels.torch.kernels import TorchKernels


def kernels_for(device: torch.device) -> Kernels:
    """Plain torch serves every device torch knows; faster kernels register here."""
    return TorchKernels()
