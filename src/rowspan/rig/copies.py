"""Tries copies between cards in a child process, because a faulty driver may hang or kill it. No torch here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import cast

from rowspan.rig.root import Unreadable

PROGRAM = "rowspan.comm.probing.peer_copy"
SECONDS = 120.0
WHAT = "copies between cards"


def try_copies() -> Mapping[str, bool]:
    """Copy data between every two cards, compare, and return for "cuda:0 → cuda:1" and so on whether it arrived as
    sent.

    Raises:
        Unreadable: the child process hung or died, or torch can use fewer than two cards.
    """
    command = [sys.executable, "-m", PROGRAM]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unreadable(WHAT, f"the child process did not end in {SECONDS:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Unreadable(WHAT, f"the child process failed: {last}")
    copies = cast("dict[str, bool]", json.loads(done.stdout))
    if not copies:
        raise Unreadable(WHAT, "torch sees fewer than two cards")
    return copies
