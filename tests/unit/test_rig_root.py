"""One folder through which a machine is read: what is missing, what is not permitted, what leads out of it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from rowspan.rig.root import BLOCK, Missing, NotPermitted, Root, Unreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a small machine."""
    (tmp_path / "sys/a").mkdir(parents=True)
    (tmp_path / "sys/a/number").write_text("0x8b\n")
    (tmp_path / "sys/a/text").write_text("  words \n")
    (tmp_path / "environ").write_text("A=1\nB=x=y\n")
    return tmp_path


def test_texts_and_numbers(folder: Path) -> None:
    root = Root(folder)
    assert root.recorded
    assert root.text("/sys/a/text") == "words"
    assert root.number("/sys/a/number") == 0x8B
    assert root.environment == {"A": "1", "B": "x=y"}
    with pytest.raises(Unreadable, match="'words' is no number"):
        root.number("/sys/a/text")


def test_what_is_missing_is_told_from_what_is_not_permitted(folder: Path) -> None:
    (folder / "not-permitted").write_text("/sys/a/*\n/dev/kfd\n")
    (folder / "dev").mkdir()
    (folder / "dev/kfd").touch()
    root = Root(folder)
    with pytest.raises(Missing, match="/sys/b: missing"):
        root.text("/sys/b")
    with pytest.raises(Missing):
        root.text("/environ/below-a-file")
    with pytest.raises(NotPermitted, match="/sys/a/text: not permitted"):
        root.text("/sys/a/text")
    assert root.has("/sys/a/text")
    assert not root.may_open("/dev/kfd")
    with pytest.raises(Missing):
        root.may_open("/dev/dri/renderD128")


def test_a_real_machine_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NotPermitted):
        Root().text("/proc/cpuinfo")


def test_this_machine_is_read_too() -> None:
    root = Root()
    assert not root.recorded
    assert root.text("/proc/sys/kernel/osrelease") == os.uname().release  # /proc/sys refuses to be read in one go
    assert root.environment == dict(os.environ)


def test_patterns_find_files_and_folders(folder: Path) -> None:
    root = Root(folder)
    assert root.glob("/sys/*/te*") == ["/sys/a/text"]
    assert root.glob("/sys/[ab]") == ["/sys/a"]
    assert root.glob("/nothing/*/here") == []
    assert root.names("/sys/a") == ["number", "text"]
    assert root.names("/nowhere") == []


def test_links_lead_somewhere_in_the_folder_or_nowhere(folder: Path) -> None:
    (folder / "sys/inside").symlink_to("a")
    (folder / "sys/outside").symlink_to("/etc/passwd")
    root = Root(folder)
    assert root.target("/sys/inside") == "/sys/a"
    assert root.text("/sys/inside/text") == "words"
    for look in (root.text, root.target):
        with pytest.raises(Missing):
            look("/sys/outside")
    assert not root.has("/sys/outside")
    with pytest.raises(Missing):
        root.text("/../../../../etc/passwd")


def test_some_seconds_later_other_files_may_be_different(folder: Path) -> None:
    (folder / "later/sys/a").mkdir(parents=True)
    (folder / "later/sys/a/number").write_text("7")
    later = Root(folder).later(5.0)
    assert later.number("/sys/a/number") == 7
    assert later.text("/sys/a/text") == "words"
    assert later.names("/sys/a") == ["number", "text"]


def test_packed_files_and_damaged_ones(folder: Path) -> None:
    (folder / "good.gz").write_bytes(gzip.compress(b"CONFIG_X=y"))
    (folder / "bad.gz").write_bytes(gzip.compress(b"CONFIG_X=y")[:-5])
    (folder / "none.gz").write_bytes(b"not packed")
    root = Root(folder)
    assert root.zipped_text("/good.gz") == "CONFIG_X=y"
    for name in ("/bad.gz", "/none.gz"):
        with pytest.raises(Unreadable):
            root.zipped_text(name)


def test_long_files_come_in_blocks(folder: Path) -> None:
    (folder / "long").write_bytes(bytes(2 * BLOCK + 1))
    assert [len(block) for block in Root(folder).blocks("/long")] == [BLOCK, BLOCK, 1]


def test_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "commands").mkdir()
    (folder / "commands/tool").write_text("as recorded\n")
    assert Root(folder).command("tool", "--version") == "as recorded"
    with pytest.raises(Missing):
        Root(folder).command("other")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {"tool": 'echo "ran $1"; echo and complained >&2', "failing": "exit 3"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    assert Root().command("tool", "--version") == "ran --version\nand complained"
    with pytest.raises(Unreadable, match="failing"):
        Root().command("failing")
    with pytest.raises(Missing):
        Root().command("no-such-tool")
