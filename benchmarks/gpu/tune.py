"""Tunes Rowspan's linear kernels on a card for the matrices of some models: a program of its own, as ceilings.py is.

    python benchmarks/gpu/tune.py cuda:0 2048 60 model.gguf…

The most tokens of a step follow the device, then the seconds it may take. What it finds is kept where the engine looks
for it. One line says how far it came.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rowspan.checkpoint.names import Role, TensorKey
from rowspan.checkpoint.open import open_checkpoint
from rowspan.kernels.triton.layout import PlanarWeight
from rowspan.kernels.triton.pack import pack
from rowspan.kernels.triton.tuning import tune

WIDTHS = (1, 64, 512)  # tokens of the steps that are promised to be fast


def main() -> None:
    device, batch, seconds = torch.device(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    deadline = time.monotonic() + seconds
    done, jobs = 0, matrices([Path(path) for path in sys.argv[4:]])
    widths = [*(width for width in WIDTHS if width < batch), batch]
    for tokens in widths:  # of all matrices, so that no model is left behind
        for path, key, scheme in jobs:
            if time.monotonic() > deadline:
                break
            checkpoint = open_checkpoint(path)
            weight = pack(scheme, torch.from_numpy(checkpoint.read(key).copy()).to(device), torch.bfloat16)
            checkpoint.close()
            if isinstance(weight, PlanarWeight):
                tune(weight, tokens, torch.bfloat16, measure=None if device.type == "cuda" else stopwatch)
            done += 1
    print(f"{done} of {len(jobs) * len(widths)} products of up to {batch} tokens")


def matrices(paths: Sequence[Path]) -> list[tuple[Path, TensorKey, str]]:
    """One of each shape and scheme; largest first, since they take most of a step."""
    found: dict[tuple[str, tuple[int, ...]], tuple[int, Path, TensorKey]] = {}
    for path in paths:
        checkpoint = open_checkpoint(path)
        tied = TensorKey(Role.HEAD) not in checkpoint.tensors
        for key, info in checkpoint.tensors.items():
            if len(info.shape) == 2 and (tied or key.role is not Role.EMBEDDING):
                found.setdefault((info.scheme, info.shape), (info.nbytes, path, key))
        checkpoint.close()
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return [(path, key, scheme) for (scheme, _), (_, path, key) in ordered]


def stopwatch(call: Callable[[], object]) -> float:
    """For trying this program without a card."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
