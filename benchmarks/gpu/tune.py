"""Tunes Rowspan's linear kernels on a card for the matrices of some models: a program of its own.

    python benchmarks/gpu/tune.py cuda:0 2048 60 model.gguf…

The most tokens of a step follow the device, then the seconds it may take. What it finds is kept where the engine looks
for it. One line says how far it came.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.checkpoint.names import Role, TensorKey
from rowspan.checkpoint.open import open_checkpoint
from rowspan.kernels.triton.join import join
from rowspan.kernels.triton.layout import PlanarWeight
from rowspan.kernels.triton.pack import pack
from rowspan.kernels.triton.tuning import tune

WIDTHS = (1, 64, 512)  # tokens of the steps that are promised to be fast
TOGETHER = ((Role.Q, Role.K, Role.V), (Role.GATE, Role.UP), (Role.O,), (Role.DOWN,))  # of a layer, one product each
DTYPE = torch.bfloat16

Product = tuple[TensorKey, ...]  # matrices that may be one


def main() -> None:
    device, batch, seconds = torch.device(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    deadline = time.monotonic() + seconds
    checkpoints = [open_checkpoint(Path(path)) for path in sys.argv[4:]]
    products = distinct(checkpoints)
    widths = [*(width for width in WIDTHS if width < batch), batch]
    done = 0
    for tokens in widths:  # of all matrices, so that no model is left behind
        for checkpoint, product in products:
            if time.monotonic() > deadline:
                break
            for weight in weights(checkpoint, product, device):
                tune(weight, tokens, DTYPE, measure=None if device.type == "cuda" else stopwatch)
            done += 1
    print(f"{done} of {len(products) * len(widths)} products of up to {batch} tokens")


def distinct(checkpoints: Sequence[GgufCheckpoint]) -> list[tuple[GgufCheckpoint, Product]]:
    """One product of each shape and scheme; largest first, since they take most of a step."""
    found: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[int, GgufCheckpoint, Product]] = {}
    for checkpoint in checkpoints:
        tensors = checkpoint.tensors
        for product in products_of(checkpoint):
            infos = [tensors[key] for key in product]
            kind = tuple((info.scheme, info.shape) for info in infos)
            found.setdefault(kind, (sum(info.nbytes for info in infos), checkpoint, product))
    ordered = sorted(found.values(), key=lambda one: -one[0])
    return [(checkpoint, product) for _, checkpoint, product in ordered]


def products_of(checkpoint: GgufCheckpoint) -> Iterator[Product]:
    head = TensorKey(Role.HEAD)
    yield (head if head in checkpoint.tensors else TensorKey(Role.EMBEDDING),)
    for layer in sorted({key.layer for key in checkpoint.tensors if key.layer is not None}):
        for roles in TOGETHER:
            yield tuple(TensorKey(role, layer) for role in roles)


def weights(checkpoint: GgufCheckpoint, product: Product, device: torch.device) -> list[PlanarWeight]:
    """On the device, as the engine has them: one, or where they are not held alike several. Without dense ones."""
    parts = [
        pack(checkpoint.tensors[key].scheme, torch.from_numpy(checkpoint.read(key).copy()).to(device), DTYPE)
        for key in product
    ]
    whole = join(parts) if len(parts) > 1 else None
    return [weight for weight in (parts if whole is None else [whole]) if isinstance(weight, PlanarWeight)]


def stopwatch(call: Callable[[], object]) -> float:
    """For trying this program without a card."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
