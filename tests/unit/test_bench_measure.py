"""What is computed, where, and what is said of it: steps, cores, model facts, the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.gguf_builder import TinyModel

from rowspan.bench.engines.model_facts import count_text, model_facts
from rowspan.bench.engines.steps import Steps, numbered_blocks, random_tokens
from rowspan.bench.machine.peak_memory import peak_child_memory
from rowspan.checkpoint.fingerprint import fingerprint
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.kvcache.groups import FULL, CacheGroup, CacheLayout
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode

VOCAB, CONTEXT = 50, 400


def layout(block_size: int, group: CacheGroup = FULL, step_tokens: int = 64) -> CacheLayout:
    return CacheLayout((group,), block_size, 8, step_tokens)


@given(start=st.integers(0, 100), length=st.integers(1, 300), budget=st.integers(1, 128), block=st.integers(1, 64))
def test_a_prompt_is_computed_once_in_steps_of_the_budget(start: int, length: int, budget: int, block: int) -> None:
    chunks = [plan.chunks[0] for plan in Steps(VOCAB, CONTEXT, budget, layout(block)).prompt(start, length)]
    whole = Steps(VOCAB, CONTEXT, CONTEXT, layout(block)).prompt(0, CONTEXT)[0].chunks[0].tokens
    assert tuple(token for chunk in chunks for token in chunk.tokens) == whole[start : start + length]
    assert [len(chunk.tokens) for chunk in chunks[:-1]] == [budget] * (len(chunks) - 1)
    assert [chunk.samples for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    position = start
    for chunk in chunks:
        assert chunk.position == position
        position += len(chunk.tokens)
        assert len(chunk.blocks) * block >= position > (len(chunk.blocks) - 1) * block
        assert list(chunk.blocks) == list(range(len(chunk.blocks)))


def test_generation_is_one_token_a_step() -> None:
    plans = Steps(VOCAB, CONTEXT, 64, layout(32)).generation(31, 3)
    assert [(plan.chunks[0].position, len(plan.chunks[0].tokens)) for plan in plans] == [(31, 1), (32, 1), (33, 1)]
    assert [list(plan.chunks[0].blocks) for plan in plans] == [[0], [0, 1], [0, 1]]
    assert all(plan.chunks[0].samples for plan in plans)


def test_sequences_are_introduced_once() -> None:
    steps = Steps(VOCAB, CONTEXT, 64, layout(32), sequences=2)
    plans = [*steps.prompt(0, 100), *steps.generation(100, 2), *steps.prompt(0, 100)]
    assert [plan.new for plan in plans] == [steps.introductions()] + [()] * 5
    assert [sequence.seq_id for sequence in steps.introductions()] == [0, 1]
    assert [plan.number for plan in plans] == list(range(6))


def test_tokens_are_the_same_whatever_the_configuration() -> None:
    small, large = Steps(VOCAB, CONTEXT, 8, layout(16)), Steps(VOCAB, CONTEXT, 8, layout(32))
    assert [p.chunks[0].tokens for p in small.prompt(0, 99)] == [p.chunks[0].tokens for p in large.prompt(0, 99)]
    tokens = Steps(VOCAB, CONTEXT, CONTEXT, layout(16)).prompt(0, CONTEXT)[0].chunks[0].tokens
    assert set(tokens) == set(range(VOCAB))
    assert random_tokens(VOCAB, 50) == list(tokens[:50])
    assert random_tokens(VOCAB, 50, sequence=1) != list(tokens[:50])


@given(length=st.integers(1, 200), budget=st.integers(1, 128), block=st.integers(1, 64), sequences=st.integers(1, 5))
def test_prompts_of_several_sequences_fill_the_budget(length: int, budget: int, block: int, sequences: int) -> None:
    plans = Steps(VOCAB, CONTEXT, budget, layout(block), sequences).prompt(7, length, sequences)
    sizes = [sum(len(chunk.tokens) for chunk in plan.chunks) for plan in plans]
    assert sizes[:-1] == [budget] * (len(sizes) - 1)
    assert sum(sizes) == length * sequences
    chunks = [chunk for plan in plans for chunk in plan.chunks]
    for sequence in range(sequences):
        mine = [chunk for chunk in chunks if chunk.seq_id == sequence]
        whole = random_tokens(VOCAB, CONTEXT, sequence)[7 : 7 + length]
        assert [token for chunk in mine for token in chunk.tokens] == whole
        assert [chunk.samples for chunk in mine] == [False] * (len(mine) - 1) + [True]
    owned = [
        {block for chunk in chunks if chunk.seq_id == sequence for block in chunk.blocks}
        for sequence in range(sequences)
    ]
    assert sum(map(len, owned)) == len(set().union(*owned)), "no two sequences share a block"


@given(start=st.integers(0, 300), step=st.integers(1, 64), window=st.integers(1, 100), sequence=st.integers(0, 3))
def test_blocks_of_a_window_are_used_again(start: int, step: int, window: int, sequence: int) -> None:
    group, others = CacheGroup(window), CacheLayout((FULL, CacheGroup(window)), 16, 4, 64)
    n_blocks = others.blocks_for(start + step)
    tables = numbered_blocks(others, CONTEXT, sequence, start + step)
    assert list(tables[:n_blocks]) == [sequence * 25 + index for index in range(n_blocks)]
    own = min(25, others.most_held(group) or 0)
    assert set(tables[n_blocks:]) <= set(range(sequence * own, sequence * own + own))
    assert own * 4 <= others.pools(4 * 25)[1]
    needed = tables[n_blocks + group.first_seen(start) // 16 :]
    assert len(set(needed)) == len(needed), "none of what the step reads is written by it"


def test_generation_of_several_sequences_is_one_step() -> None:
    (plan,) = Steps(VOCAB, CONTEXT, 64, layout(32), 3).generation(40, 1, 3)
    assert [(chunk.seq_id, chunk.position, len(chunk.tokens)) for chunk in plan.chunks] == [
        (0, 40, 1),
        (1, 40, 1),
        (2, 40, 1),
    ]


def cores_of(path: Path, devices: str, mode: SplitMode, main: int = 0, threads: int | None = None) -> list[object]:
    config = EngineConfig(path, parse_devices(devices), mode, main_gpu=main, threads=threads)
    return [(setup.cores, setup.threads) for setup in make_blueprint(config).setups()]


def test_a_cpu_device_is_the_same_share_in_every_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 4, 5, 6, 7})
    path = TinyModel().write(tmp_path / "m.gguf")
    halves = [((2, 3, 4), 3), ((5, 6, 7), 3)]
    assert cores_of(path, "cpu:0,cpu:1", SplitMode.ROW) == halves
    assert cores_of(path, "cpu:0,cpu:1", SplitMode.LAYER) == halves
    assert cores_of(path, "cpu:0,cpu:1", SplitMode.NONE) == halves[:1]
    assert cores_of(path, "cpu:0,cpu:1", SplitMode.NONE, main=1) == halves[1:]
    assert cores_of(path, "cpu:0,cpu:1", SplitMode.ROW, threads=4) == [((2, 3, 4), 2), ((5, 6, 7), 2)]


def test_a_lone_cpu_device_has_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    path = TinyModel().write(tmp_path / "m.gguf")
    for mode in SplitMode:
        assert cores_of(path, "cpu:1", mode) == [((), 4)]


def test_more_cpu_devices_than_cores_are_left_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    path = TinyModel().write(tmp_path / "m.gguf")
    assert cores_of(path, "cpu:0,cpu:1,cpu:2", SplitMode.ROW) == [((), 1)] * 3


def test_model_facts(tmp_path: Path) -> None:
    model = TinyModel(scheme="Q4_1", schemes={"token_embd": "Q8_0"})
    checkpoint = open_checkpoint(model.write(tmp_path / "m.gguf"))
    facts = model_facts(checkpoint, read_spec(checkpoint), "abc")
    weights = model.weights()
    assert facts.n_params == sum(weight.size for weight in weights.values())
    assert facts.size == sum(len(tensor.data) for tensor in model.tensors())
    assert facts.type == "llama 92K Q4_1"  # 286 · 64 + 2 · (2 · 64 · 64 + 2 · 64 · 32 + 3 · 64 · 128) and norms
    assert facts.sha256 == "abc"


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    def of(raw: bytes) -> str:
        path = tmp_path / "f"
        path.write_bytes(raw)
        return fingerprint((path,))

    raw = bytes(3 << 20)
    assert of(raw) == of(raw)
    others = {of(raw + b"\0"), of(b"x" + raw[1:]), of(raw[:-1] + b"x"), of(b""), of(b"x")}
    assert len(others - {of(raw)}) == 5
    stored = "b4d5e901015b"  # in users' results and baselines
    assert of(b"rowspan" * 300_000).startswith(stored)


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (9_500, "9.5 K"), (134_515_008, "135 M"), (7_241_732_096, "7.2 B"), (70_553_706_496, "71 B")],
)
def test_count_text(count: int, text: str) -> None:
    assert count_text(count) == text


def test_memory_of_children_is_counted_while_they_live() -> None:
    before = peak_child_memory()
    code = "held = bytearray(50_000_000); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_child_memory() - before > 50_000_000
        child.communicate(b"\n")
    assert peak_child_memory() == before
