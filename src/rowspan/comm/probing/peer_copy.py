"""Whether copies between cards arrive as they were sent. Drivers may allow copies that corrupt.

A program of its own (`python -m rowspan.comm.probing.peer_copy`), since a faulty driver may hang or kill who tries;
started by `rig.copies`.
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
    """Send random words from each device to each other one, several times: "cuda:0 → cuda:1" → arrived as sent."""
    arrived = {}
    for source, target in permutations(devices, 2):
        same = True
        for _ in range(ROUNDS):
            sent = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device=source)
            same &= torch.equal(copy(sent, target).cpu(), sent.cpu())
        arrived[f"{source} → {target}"] = same
    return arrived


def main() -> None:
    """Try all cards, and print what `compare` says as JSON."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    print(json.dumps(compare(devices, lambda sent, target: sent.to(target))))


if __name__ == "__main__":
    main()
