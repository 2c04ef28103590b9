"""Whether copies between cards arrive as they were sent. Drivers may allow copies that corrupt.

Run as a child process (`python -m rowspan.comm.probe`), since a faulty driver may hang or kill who tries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from rowspan.rig.root import Unreadable

if TYPE_CHECKING:
    import torch

    Copy = Callable[[torch.Tensor, str], torch.Tensor]

WORDS = 16 << 20  # of 4 bytes; small copies can go right where large ones do not
ROUNDS = 3
SECONDS = 120.0
WHAT = "copies between cards"


def try_copies() -> Mapping[str, bool]:
    """Copy between every two cards and compare: "cuda:0 → cuda:1" → whether it arrived as sent.

    Raises:
        Unreadable: it hung, died, or there are not two cards that torch can use.
    """
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unreadable(WHAT, f"the child process did not end in {SECONDS:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Unreadable(WHAT, f"the child process failed: {last}")
    copies = cast("dict[str, bool]", json.loads(done.stdout))
    if not copies:
        raise Unreadable(WHAT, "torch sees fewer than two cards")
    return copies


def compare(devices: Sequence[str], copy: Copy, words: int = WORDS) -> dict[str, bool]:
    """Send random words from each device to each other one, several times."""
    import torch

    arrived = {}
    for source in devices:
        for target in devices:
            if source == target:
                continue
            same = True
            for _ in range(ROUNDS):
                sent = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device=source)
                same &= torch.equal(copy(sent, target).cpu(), sent.cpu())
            arrived[f"{source} → {target}"] = same
    return arrived


def _main() -> None:
    import torch

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    print(json.dumps(compare(devices, lambda sent, target: sent.to(target))))


if __name__ == "__main__":
    _main()
