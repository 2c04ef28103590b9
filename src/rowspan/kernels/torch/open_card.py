"""Makes torch compute on one device of this process."""

from __future__ import annotations

import torch

from rowspan.errors import UsageError
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.plan.device import Device


def open_device(device: Device, dtype: str, threads: int) -> TorchKernels:
    """Torch's kernels on a device. Raises UsageError if there is no such card."""
    torch.set_num_threads(threads)
    card = torch.device("cpu") if device.kind == "cpu" else open_card(device)
    return TorchKernels(getattr(torch, dtype), card)


def open_card(device: Device) -> torch.device:
    """Make a card this process's current one. Raises UsageError if there is no such card."""
    if device.index >= torch.cuda.device_count():
        raise UsageError(
            f"There is no device {device}.",
            why=f"torch {torch.__version__} sees {torch.cuda.device_count()} cards here.",
            fix="Name another in --devices, or install the build of torch that is made for your card.",
        )
    torch.cuda.set_device(device.index)
    return torch.device("cuda", device.index)
