"""What has a model's file read from the disk while what came before is packed."""

from __future__ import annotations

import mmap
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.gguf_builder import TinyModel

from rowspan.checkpoint import gguf
from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.model.families.registry import key_of
from rowspan.model.open_checkpoint import read_spec
from rowspan.model.weights import load_weights
from rowspan.plan.device import Device
from rowspan.plan.split import split
from rowspan.plan.split_mode import SplitMode

MODEL = TinyModel(n_layers=4, tied=False)


class Advised:
    """A mapping that only notes what it is advised."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, int]] = []

    def madvise(self, advice: int, start: int, length: int) -> None:
        assert advice == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        self.stretches.append((start, start + length))


@pytest.mark.parametrize("window", [mmap.PAGESIZE, 3 * mmap.PAGESIZE, 1 << 20])
def test_no_more_is_advised_at_a_time_than_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(gguf, "READ_AHEAD", window)
    checkpoint = GgufCheckpoint(TinyModel(ffn_size=256).write(tmp_path / "m.gguf"), key_of)
    key = TensorKey(Role.UP, 1)
    place, noted = checkpoint._places[key], Advised()
    mapping: Any = noted
    checkpoint._places[key] = replace(place, data=mapping)
    checkpoint.prefetch(key)
    stretches = noted.stretches
    assert all(0 < end - start <= window for start, end in stretches)
    assert all(end == start for (_, end), (start, _) in pairwise(stretches))
    assert stretches[0][0] <= place.start < stretches[0][0] + mmap.PAGESIZE
    assert stretches[-1][1] == place.start + checkpoint.tensors[key].nbytes


class Watched(GgufCheckpoint):
    """Notes which tensors were to be read ahead; a disk that does not answer until `answers` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, key_of)
        self.answers = threading.Event()
        self.begun = threading.Event()
        self.threads: set[str] = set()
        self.ahead: list[TensorKey] = []

    def prefetch(self, key: TensorKey) -> None:
        self.begun.set()
        self.threads.add(threading.current_thread().name)
        self.ahead.append(key)
        assert self.answers.wait(20)


def load(checkpoint: Watched, devices: int) -> None:
    spec = read_spec(checkpoint)
    plan = split(spec, checkpoint.tensors, [Device("cpu", i) for i in range(devices)], SplitMode.LAYER)

    def loaded(nbytes: int) -> None:
        assert checkpoint.begun.wait(20), "before the first tensor has been packed"

    load_weights(checkpoint, plan, plan.shards[-1], TorchKernels(torch.float32), loaded)


def test_each_tensor_of_the_rank_is_read_ahead_once_by_a_thread_of_its_own(tmp_path: Path) -> None:
    checkpoint = Watched(MODEL.write(tmp_path / "m.gguf"))
    checkpoint.answers.set()
    load(checkpoint, devices=2)
    assert checkpoint.ahead[0].layer == 2
    layers = [key.layer for key in checkpoint.ahead if key.layer is not None]
    assert len(checkpoint.ahead) == len(set(checkpoint.ahead))
    assert set(layers) <= {2, 3}, "the last rank's"
    assert layers == sorted(layers)
    assert TensorKey(Role.EMBEDDING) not in checkpoint.ahead
    assert all(name.startswith("rowspan-read-ahead") for name in checkpoint.threads)


def test_a_slow_disk_does_not_hold_up_what_is_there(tmp_path: Path) -> None:
    checkpoint = Watched(MODEL.write(tmp_path / "m.gguf"))
    load(checkpoint, devices=1)
    assert len(checkpoint.ahead) <= 1, "it still waits for the first; what was to come is not read for nobody"
    checkpoint.answers.set()
