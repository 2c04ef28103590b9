"""The plan in words agrees with the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.describe import describe
from rowspan.kernels.isa import native_module
from rowspan.plan.device import parse_devices
from rowspan.plan.explain import Explanation, memory_text
from rowspan.plan.explain_table import lines, notes, to_text
from rowspan.plan.split_mode import SplitMode

MODEL = TinyModel(scheme="Q4_0", n_layers=4, hidden_size=96, n_heads=6, n_kv_heads=3, vocab_size=300)


def explained(folder: Path, mode: SplitMode, n_devices: int, model: TinyModel = MODEL) -> Explanation:
    path = model.write(folder / "m.gguf")
    devices = parse_devices(",".join(f"cpu:{index}" for index in range(n_devices)))
    return describe(make_blueprint(EngineConfig(path, devices, mode, context_size=64, cache_tokens=320)))


def cells(explanation: Explanation) -> dict[str, list[str]]:
    """A line's cells by its label; of the header, by ""."""
    return {line[0]: list(line[1:]) for line in lines(explanation)}


def test_lines_of_a_row_split(tmp_path: Path) -> None:
    table = cells(explained(tmp_path, SplitMode.ROW, 5))
    assert table[""] == ["cpu:0", "cpu:1", "cpu:2", "cpu:3", "cpu:4", "all"]
    assert table["query heads"] == ["2", "2", "2", "0", "0", "6"]
    assert table["KV heads"] == ["1", "1", "1", "0", "0", "3"]
    assert table["layers"] == ["0-3"] * 5 + ["4"]
    assert table["vocabulary looked up"] == table["vocabulary predicted"] == ["60"] * 5 + ["300"]
    assert sum(map(int, table["MLP rows"][:5])) == int(table["MLP rows"][5]) == 128
    assert table["KV cache, 320 tokens"][3:5] == ["0 B", "0 B"]
    assert len(set(table["sums over"][:5])) == 1
    assert "hands on over" not in table


def test_lines_of_a_layer_split(tmp_path: Path) -> None:
    table = cells(explained(tmp_path, SplitMode.LAYER, 3))
    assert table["vocabulary looked up"] == ["300", "-", "-", "300"]
    assert table["vocabulary predicted"] == ["-", "-", "300", "300"]
    assert table["sends per token"] == ["384 B", "384 B", "0 B", "768 B"]  # 96 floats
    assert table["sends per prompt of 512"][0] == "192.0 KiB"
    assert table["hands on over"][2:] == ["-", ""]
    assert not {"KV heads", "MLP rows", "sums over"} & set(table), "they say nothing: every rank holds all rows"


def test_one_rank_talks_to_nobody(tmp_path: Path) -> None:
    explanation = explained(tmp_path, SplitMode.NONE, 2)
    table = cells(explanation)
    assert table[""] == ["cpu:0"]
    assert table["KV heads"] == ["3"]
    assert not [label for label in table if label.startswith(("sends", "sums", "hands"))]
    assert not explanation.talks
    assert "1 rank," in explanation.title


def test_stages_of_rows_are_told_apart(tmp_path: Path) -> None:
    explanation = explained(tmp_path, SplitMode.ROW, 2)
    first, second = explanation.holdings
    mixed = replace(explanation, holdings=(first, second, replace(first, rank=2, stage=1), replace(second, stage=1)))
    assert cells(mixed)["stage.tp_rank"] == ["0.0", "0.1", "1.0", "1.1", ""]


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


@pytest.mark.parametrize("mode", SplitMode)
@pytest.mark.parametrize("n_devices", [1, 2, 4])
@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_page_fits_the_terminal(tmp_path: Path, mode: SplitMode, n_devices: int, width: int) -> None:
    explanation = explained(tmp_path, mode, n_devices)
    page = to_text(explanation, width).splitlines()
    assert max(map(len, page)) <= width
    columns = sum(line.count("cpu:") for line in page if line.startswith("   "))
    assert columns == len(explanation.holdings)
    blocks = sum(line.startswith("layers") for line in page)
    assert blocks == 1 or (width == 60 and n_devices == 4)


def test_a_pipe_gets_one_block_whatever_the_devices(tmp_path: Path) -> None:
    page = to_text(explained(tmp_path, SplitMode.ROW, 3), 10_000).splitlines()
    assert len({line.rindex("all") + 3 for line in page if line.endswith(" all")}) == 1
    assert sum(line.startswith("layers") for line in page) == 1


def test_who_talks_how_and_why_is_said(tmp_path: Path) -> None:
    explanation = explained(tmp_path, SplitMode.LAYER, 3)
    transport = explanation.talks[0].transport
    said = notes(replace(explanation, probed=False))
    assert said[0].startswith(f"Hand-overs take {transport} (cpu:0 to cpu:1; cpu:1 to cpu:2): ")
    assert "are probed when the engine starts" in said[1]
    assert "arrived as sent" in notes(replace(explanation, probed=True))[1]


def test_json_carries_everything(tmp_path: Path) -> None:
    table = explained(tmp_path, SplitMode.LAYER, 2)
    answer = json.loads(json.dumps(table.to_dict()))
    assert [rank["device"] for rank in answer["holdings"]] == ["cpu:0", "cpu:1"]
    assert answer["holdings"][0]["layers"]["stop"] == answer["holdings"][1]["layers"]["start"]
    assert answer["holdings"][1]["embedding"] is None
    assert answer["holdings"][0]["sent_per_token"] == 96 * 4
    assert answer["totals"]["weights"] == sum(rank["weights"] for rank in answer["holdings"])
    (talk,) = answer["talks"]
    assert (talk["act"], talk["ranks"]) == ("hands on", [0, 1])
    assert talk["why"]
    assert answer["probed"] in (True, False)


def test_buffers_hold_what_ranks_share(tmp_path: Path) -> None:
    alone, split = (explained(tmp_path, mode, 2).holdings for mode in (SplitMode.NONE, SplitMode.LAYER))
    if native_module() is None:
        pytest.skip("native kernels: none here")
    link = 2 * 512 * 96 * 4  # two messages of a step's tokens; the receiver has none
    assert link <= split[0].buffers - split[1].buffers + 16 * 300 * 4 <= link + 4096  # the last rank has logits
    assert alone[0].buffers > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (3 << 40, "3.0 TiB")],
)
def test_memory_text(size: int, text: str) -> None:
    assert memory_text(size) == text
