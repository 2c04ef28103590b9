"""The cache folder: files appear in it whole and verified, or not at all.

Beside every file lies a small record (`NAME.json`) of its size, hash and source. It is written before the file gets
its final name, so a file without one, or of another size, is damaged and is fetched again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from rowspan.errors import DownloadError
from rowspan.hub.download_progress import ProgressSink, task

GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True)
class Record:
    """What the cache remembers of one file. `source` is a name that `rowspan.hub.resolve` takes."""

    source: str
    size: int
    sha256: str


class FileCache:
    """The models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "models"

    def path(self, *parts: str) -> Path:
        """Where a file belongs.

        Raises:
            DownloadError: a part (which may come from a server) points out of the cache.
        """
        path = self.root.joinpath(*parts)
        if ".." in path.parts or not path.is_relative_to(self.root):
            raise DownloadError(f"The file name {'/'.join(parts)!r} points out of the cache folder.")
        return path

    def record(self, path: Path) -> Record | None:
        """The record of a file that is there with the size it should have; None otherwise."""
        try:
            record = Record(**json.loads(_record_path(path).read_bytes()))
            return record if path.stat().st_size == record.size else None
        except (OSError, ValueError, TypeError):
            return None

    def records(self) -> Iterator[tuple[Path, Record]]:
        """Every sound file and its record, sorted by path."""
        for record_path in sorted(self.root.rglob("*.json")):
            path = record_path.with_suffix("")
            record = self.record(path)
            if record is not None:
                yield path, record

    @contextmanager
    def claim(self, path: Path, label: str, progress: ProgressSink) -> Iterator[None]:
        """Hold the right to write `path`, waiting while another process does; its folder exists then.

        Raises:
            DownloadError: the body, or the claim itself, could not write to the disk.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path.with_name(path.name + ".lock"))
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                with task(progress, f"Waiting for another process that fetches {label}", None):
                    lock.acquire()
            try:
                yield
            finally:
                lock.release()
        except OSError as error:
            raise DownloadError(
                f"{label} could not be written to the cache folder {self.root}.",
                why=str(error),
                fix="Make room or give access there, or set ROWSPAN_CACHE to another folder.",
            ) from error

    def commit(self, part: Path, path: Path, record: Record) -> None:
        """Turn a finished download into the file `path`, at once.

        Raises:
            DownloadError: it is no GGUF file; it is removed.
        """
        with part.open("rb") as file:
            start = file.read(len(GGUF_MAGIC))
        if start != GGUF_MAGIC:
            part.unlink()
            raise DownloadError(
                f"{record.source} is not a GGUF file.",
                why=f"It begins with {start!r}, not {GGUF_MAGIC!r}: perhaps a web page was sent in its place.",
                fix="Check the address; a proxy or a login page may stand in between.",
            )
        record_part = _record_path(part)
        record_part.write_text(json.dumps(asdict(record)), encoding="utf-8")
        record_part.replace(_record_path(path))
        part.replace(path)


def require_space(folder: Path, needed: int, label: str) -> None:
    """Check that `needed` bytes are free where `folder` is or will be.

    Raises:
        DownloadError: they are not.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{label} does not fit on the disk.",
            why=f"It needs {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free under {folder}.",
            fix="Free some space, or move the cache: ROWSPAN_CACHE, and HF_HOME for models of Hugging Face.",
        )


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
