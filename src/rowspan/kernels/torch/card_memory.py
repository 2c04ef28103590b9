"""A card's memory: keeps track of what is held in it, how large a cache may be, and moves weights to the host and
back.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from rowspan.comm.base import Comm
from rowspan.comm.tensors import detached
from rowspan.kernels.ops import DeviceMemoryError
from rowspan.kernels.torch.upload import Uploader

Held = TypeVar("Held")
# What torch and the libraries below it say when a card's memory is full, beside torch.OutOfMemoryError.
FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")


class CardMemory:
    """A card's `rowspan.kernels.ops.DeviceMemory`."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Manage a card. Args: dtype: type of activations."""
        self.uploader = Uploader(device)
        self._device = device
        self._dtype = dtype
        self._held: dict[int, torch.UntypedStorage] = {}  # by address: tensors may share memory
        self._parked: list[Tensor] = []

    def hold(self, what: Held) -> Held:
        """Register weights that `offload` moves: a tensor, or a dataclass of tensors."""
        for tensor in _tensors(what):
            storage = tensor.untyped_storage()
            self._held[storage.data_ptr()] = storage
        return what

    def drop(self, what: object) -> None:
        """Forget something that was held and is no longer needed."""
        for tensor in _tensors(what):
            self._held.pop(tensor.untyped_storage().data_ptr(), None)

    def profile(self, largest_steps: Sequence[Callable[[], object]], share: float, sharers: int = 1) -> int:
        needed = 0
        for step in largest_steps:
            self.trim()
            before, _ = self.free_and_total()
            step()
            # While torch's allocator still holds what was taken; libraries' memory, which it cannot see, counts, too.
            after, _ = self.free_and_total()
            needed += max(0, before - after)
        self.trim()
        free, total = self.free_and_total()
        return max(0, free - sharers * needed - round((1 - share) * total)) // sharers

    def detached(self, comm: Comm[Any]) -> Comm[Any]:
        return detached(comm, self._device, self._dtype)

    def offload(self) -> None:
        # The tensors stay, for whoever knows them, and lose their memory.
        for storage in self._held.values():
            self._parked.append(torch.empty(storage.nbytes(), dtype=torch.uint8).copy_(_bytes(storage, self._device)))
            storage.resize_(0)
        self.trim()

    def restore(self) -> None:
        for storage, copy in zip(self._held.values(), self._parked, strict=True):
            storage.resize_(copy.nbytes)
            self.uploader.fill(_bytes(storage, self._device), copy.numpy())
        self.uploader.finish()
        self._parked = []

    def free_and_total(self) -> tuple[int, int]:
        """Free and total bytes, counting all programs that use the card."""
        torch.cuda.synchronize(self._device)
        return torch.cuda.mem_get_info(self._device)

    def trim(self) -> None:
        # What a step that failed had worked out hangs on its traceback, in a cycle that only the collector sees.
        gc.collect()
        self.empty()

    def empty(self) -> None:
        """Return to the system what torch's allocator keeps unused."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


@contextmanager
def full_memory_told() -> Iterator[None]:
    """Turn torch's errors about full memory into `DeviceMemoryError`."""
    try:
        yield
    except RuntimeError as error:
        if is_full(error):
            raise DeviceMemoryError(str(error).splitlines()[0].rstrip(".")) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error of torch, the driver or a library says that a card's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in FULL)


def _bytes(storage: torch.UntypedStorage, device: torch.device) -> Tensor:
    flat: Tensor = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
    return flat


def _tensors(what: object) -> list[Tensor]:
    if isinstance(what, Tensor):
        return [what] if what.numel() else []
    assert is_dataclass(what), f"{type(what).__name__} is no dataclass of tensors"
    parts = [getattr(what, field.name) for field in fields(what)]
    return [tensor for part in parts if isinstance(part, Tensor) for tensor in _tensors(part)]
