"""Makes Triton's kernels compute on one card of this process, if the card can run them."""

from __future__ import annotations

import logging
from functools import partial

import torch

from rowspan.kernels.torch.card_memory import CardMemory
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.torch.open_card import open_card
from rowspan.kernels.triton.graphs import CudaRecorder
from rowspan.kernels.triton.kernels import TritonKernels
from rowspan.plan.device import Device

log = logging.getLogger(__name__)

OLDEST_NVIDIA = (7, 5)  # Triton's compiler knows no older ones


def open_triton(device: Device, dtype: str, threads: int) -> TritonKernels | TorchKernels:
    """Triton's kernels on a card, or torch's if the card cannot run them. Raises UsageError if there is no such
    card.
    """
    torch.set_num_threads(threads)
    torch_dtype = getattr(torch, dtype)
    if device.kind == "cpu":  # in Triton's interpreter: see `rowspan.kernels.isa.choose_isa`
        cpu = torch.device("cpu")
        return TritonKernels(torch_dtype, cpu, CardMemory(cpu, torch_dtype), None)
    card = open_card(device)
    if torch.version.hip is None and torch.cuda.get_device_capability(card) < OLDEST_NVIDIA:
        log.warning("%s is too old for Triton: it computes with torch's own kernels, slowly.", device)
        return TorchKernels(torch_dtype, card)
    return TritonKernels(torch_dtype, card, CardMemory(card, torch_dtype), partial(CudaRecorder, card))
