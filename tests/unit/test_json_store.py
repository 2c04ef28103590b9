"""JSON files are whole, whoever writes them, and whatever goes wrong."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rowspan.json_store import read_json, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/store.json"
    values: list[object] = [{"a": [1, 2.5, None], "ä": "→"}, [], "text"]
    for value in values:
        write_json(path, value)
        assert read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["store.json"]


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    damaged = tmp_path / "damaged.json"
    for content in (b"", b"{", b"\xff\xfe"):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            read_json(damaged)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())

    def full(part: Path, text: str, encoding: str) -> None:
        part.write_bytes(text.encode()[:1])
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            write_json(path, [2, 3])
    assert read_json(path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_json(tmp_path / "file/store.json", 1)


def test_readers_and_writers_at_the_same_time_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    values = [[number] * 5000 for number in range(4)]
    write_json(path, values[0])

    def keep_writing(value: list[int]) -> None:
        for _ in range(25):
            write_json(path, value)

    writers = [threading.Thread(target=keep_writing, args=(value,)) for value in values]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert read_json(path) in values
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.json"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "store.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "store.json").stat().st_mode & 0o777 == 0o640
    assert json.loads((tmp_path / "store.json").read_text()) == {}
