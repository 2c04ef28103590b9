"""Measures a card's ceilings with torch in a child process: this process neither imports torch nor holds a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from rowspan.bench.machine.roofline import Ceilings
from rowspan.comm.environment import rank_environment
from rowspan.errors import RowspanError
from rowspan.rig.root import Root

PROGRAM = "rowspan.kernels.torch.ceilings"
SECONDS = 120.0  # importing torch and opening a card take up to ten
UNIT = "bf16 product"


def measure(device: str) -> Ceilings:
    """The ceilings of a device such as "cuda:0"; takes some ten seconds.

    Raises:
        RowspanError: torch finds no such card, or measuring it failed.
    """
    said = ask(device)
    title = f"{device} ({said['device']})"
    return Ceilings(title, said["copy_bytes_per_second"], {UNIT: said["product_flops"]})


def ask(device: str) -> dict[str, Any]:
    """All that the measuring program reports of a device: copy_bytes_per_second and product_flops, name, memory and
    versions.

    Raises: the same as `measure`.
    """
    command = [sys.executable, "-P", "-m", PROGRAM, device]
    environment = rank_environment(os.environ, Root())
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _failed(device, f"The child process did not end in {SECONDS:g} s.") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"The child process ended with status {done.returncode}"])[-1]
        raise _failed(device, f"{last}.")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _failed(device: str, why: str) -> RowspanError:
    return RowspanError(
        f"The ceilings of {device} cannot be measured.",
        why=why,
        fix="`rowspan devices` lists the cards; --no-ceilings does without.",
    )
