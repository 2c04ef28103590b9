"""Copies between devices are compared with what was sent."""

from __future__ import annotations

import subprocess

import pytest
import torch

from rowspan.comm.probing.peer_copy import ROUNDS, compare
from rowspan.rig import copies
from rowspan.rig.root import Unreadable

DEVICES = ("cpu", "cpu:0")  # two names of the same; what is tested is the comparison


def test_every_ordered_pair_is_tried() -> None:
    seen = []

    def copy(sent: torch.Tensor, target: str) -> torch.Tensor:
        seen.append((sent.numel(), target))
        return sent.clone()

    assert compare(DEVICES, copy, 1000) == {"cpu → cpu:0": True, "cpu:0 → cpu": True}
    assert seen == [(1000, "cpu:0")] * ROUNDS + [(1000, "cpu")] * ROUNDS


def test_one_wrong_word_in_one_round_is_noticed() -> None:
    rounds = iter(range(100))

    def copy(sent: torch.Tensor, target: str) -> torch.Tensor:
        arrived = sent.clone()
        arrived[-1] += next(rounds) == 1
        return arrived

    assert compare(DEVICES, copy, 1000) == {"cpu → cpu:0": False, "cpu:0 → cpu": True}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; sys.exit('driver error')", "driver error"),
        ("import os; os.abort()", "exit status -6"),
        ("import time; time.sleep(60)", "did not end"),
        ("print('{}')", "fewer than two cards"),
    ],
)
def test_a_child_that_fails_leaves_it_unknown(script: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run([command[0], "-c", script], **options))
    monkeypatch.setattr(copies, "SECONDS", 0.5)
    with pytest.raises(Unreadable, match=says):
        copies.try_copies()
