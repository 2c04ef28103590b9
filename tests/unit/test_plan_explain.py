"""The plan in words agrees with the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.open import draw_up
from rowspan.plan.device import parse_devices
from rowspan.plan.explain import HEADER, Explanation, explain, memory_text
from rowspan.plan.split import SplitMode

MODEL = TinyModel(scheme="Q4_0", n_layers=4, hidden_size=96, n_heads=6, n_kv_heads=3, vocab_size=300)


def explained(folder: Path, mode: SplitMode, n_devices: int, model: TinyModel = MODEL) -> Explanation:
    path = model.write(folder / "m.gguf")
    devices = parse_devices(",".join(f"cpu:{index}" for index in range(n_devices)))
    config = EngineConfig(path, devices, mode, context_size=64, cache_tokens=320)
    blueprint = draw_up(config)
    return explain(blueprint.plan, blueprint.sizes, blueprint.cache, config.block_size)


def cells(explanation: Explanation, column: str) -> list[str]:
    return [row[HEADER.index(column)] for row in explanation.rows()]


def test_rows_of_a_row_split(tmp_path: Path) -> None:
    table = explained(tmp_path, SplitMode.ROW, 5)
    assert cells(table, "RANK") == ["0", "1", "2", "3", "4", "all"]
    assert cells(table, "KV HEADS")[:5] == ["1 of 3", "1 of 3", "1 of 3", "0 of 3", "0 of 3"]
    assert cells(table, "LAYERS")[:5] == ["0-3 of 4"] * 5
    assert cells(table, "VOCABULARY")[:5] == ["60 in, out"] * 5
    assert sum(int(cell.split()[0]) for cell in cells(table, "MLP ROWS")[:5]) == 128
    assert cells(table, "CACHE")[3:5] == ["0 B", "0 B"]


def test_rows_of_a_layer_split(tmp_path: Path) -> None:
    table = explained(tmp_path, SplitMode.LAYER, 3)
    assert cells(table, "STAGE.ROW")[:3] == ["0.0", "1.0", "2.0"]
    assert cells(table, "VOCABULARY")[:3] == ["300 in", "-", "300 out"]
    assert cells(table, "KV HEADS")[:3] == ["3 of 3"] * 3


def test_one_rank_needs_no_totals(tmp_path: Path) -> None:
    table = explained(tmp_path, SplitMode.NONE, 2)
    assert cells(table, "DEVICE") == ["cpu:0"]
    assert "1 rank," in table.title


@pytest.mark.parametrize("mode", SplitMode)
def test_bytes_add_up(tmp_path: Path, mode: SplitMode) -> None:
    table = explained(tmp_path, mode, 3)
    per_token = 4 * 3 * 2 * (16 * 2 + 4)  # layers · KV heads · (K and V) · (head_dim of int16, a float32 scale)
    totals = table.totals()
    assert totals["cache_per_token"] == per_token
    assert totals["cache"] == per_token * 320
    assert totals["file"] >= sum(len(tensor.data) for tensor in MODEL.tensors())
    assert table.cache_tokens == 320


@pytest.mark.parametrize(
    ("mode", "n_devices", "tied", "says"),
    [
        (SplitMode.ROW, 5, True, "Rank 4 (cpu:4) holds no KV and only takes part in sums"),
        (SplitMode.ROW, 2, True, "KV heads are cut whole, 2 + 1"),
        (SplitMode.LAYER, 3, True, "the first stage and the last both hold it"),
        (SplitMode.LAYER, 3, True, "Layers are balanced by bytes"),
        (SplitMode.NONE, 1, True, "The embedding is also the output head."),
        (SplitMode.NONE, 1, False, "looked up in the mapped file"),
    ],
)
def test_what_is_notable_is_said(tmp_path: Path, mode: SplitMode, n_devices: int, tied: bool, says: str) -> None:
    model = TinyModel(scheme="Q4_0", n_layers=4, hidden_size=96, n_heads=6, n_kv_heads=3, tied=tied)
    assert any(says in note for note in explained(tmp_path, mode, n_devices, model).notes)


def test_even_cuts_are_not_called_uneven(tmp_path: Path) -> None:
    notes = " ".join(explained(tmp_path, SplitMode.ROW, 3).notes)
    assert "whole" not in notes
    assert "no KV" not in notes


def test_text_is_an_aligned_table(tmp_path: Path) -> None:
    lines = explained(tmp_path, SplitMode.ROW, 2).to_text().splitlines()
    table = lines[1:5]
    assert table[0].split() == " ".join(HEADER).split()
    starts = {line.index("cpu:") for line in table[1:3]}
    assert starts == {table[0].index("DEVICE")}
    assert all(line.startswith("- ") for line in lines[5:])


def test_json_carries_everything(tmp_path: Path) -> None:
    table = explained(tmp_path, SplitMode.LAYER, 2)
    answer = json.loads(json.dumps(table.to_dict()))
    assert [rank["device"] for rank in answer["holdings"]] == ["cpu:0", "cpu:1"]
    assert answer["holdings"][0]["layers"]["stop"] == answer["holdings"][1]["layers"]["start"]
    assert answer["holdings"][1]["embedding"] is None
    assert answer["totals"]["weights"] == sum(rank["weights"] for rank in answer["holdings"])


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (3 << 40, "3.0 TiB")],
)
def test_memory_text(size: int, text: str) -> None:
    assert memory_text(size) == text
