"""Checks whether copies between cards arrive as sent: drivers may allow copies that corrupt data.

This is a program of its own (`python -m rowspan.comm.probing.peer_copy`, started by `rig.copies`), since a faulty
driver may hang or kill the process that tries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import permutations

import torch

WORDS = 16 << 20  # of 4 bytes; small copies can go right where large ones do not
ROUNDS = 3


def compare(
    devices: Sequence[str], copy: Callable[[torch.Tensor, str], torch.Tensor], words: int = WORDS
) -> dict[str, bool]:
    """Send random words from each device to each other one, several times. Returns for "cuda:0 → cuda:1" and so on
    whether all arrived as sent.
    """
    arrived = {}
    for source, target in permutations(devices, 2):
        same = True
        for _ in range(ROUNDS):
            sent = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device=source)
            same &= torch.equal(copy(sent, target).cpu(), sent.cpu())
        arrived[f"{source} → {target}"] = same
    return arrived


def main() -> None:
    """Try all cards, and print the result of `compare` as JSON."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    print(json.dumps(compare(devices, lambda sent, target: sent.to(target))))


if __name__ == "__main__":
    main()
