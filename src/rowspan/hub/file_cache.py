"""The cache folder: files appear in it whole and verified, or not at all.

Beside every file lies a small record (`NAME.json`) of its size, hash and source. The record is written before the file
gets its final name, so a file without one, or of another size, is damaged and is fetched again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from rowspan.checkpoint.gguf_header import MAGIC
from rowspan.checkpoint.not_gguf import ENOUGH_BYTES, mistaken
from rowspan.errors import DownloadError
from rowspan.hub.download_progress import ProgressSink, task
from rowspan.json_store import read_json, write_json


@dataclass(frozen=True)
class Record:
    """The cache's record of one file. `source` is a name that `rowspan.hub.resolve` takes."""

    source: str
    size: int
    sha256: str


class FileCache:
    """The models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "models"

    def path(self, *parts: str) -> Path:
        """The place where a file belongs.

        Raises:
            DownloadError: a part (which may come from a server) points out of the cache.
        """
        path = self.root.joinpath(*parts)
        if ".." in path.parts or not path.is_relative_to(self.root):
            raise DownloadError(f"The file name {'/'.join(parts)!r} points out of the cache folder.")
        return path

    def record(self, path: Path) -> Record | None:
        """The record of a file that exists with the recorded size; None otherwise."""
        try:
            record = Record(**read_json(_record_path(path)))
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

    def remove(self, path: Path) -> None:
        """Delete a file and its record; the record last, so that what is left of a broken deletion is no model."""
        path.unlink()
        _record_path(path).unlink(missing_ok=True)

    @contextmanager
    def claim(self, path: Path, label: str, progress: ProgressSink) -> Iterator[None]:
        """Hold the exclusive right to write `path` for the length of the block, after waiting for other processes;
        makes the folder.

        Raises:
            DownloadError: the block, or the claim itself, could not write to the disk.
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
        """Turn a finished download into the file `path`, atomically.

        Raises:
            DownloadError: the download is no GGUF file; it is removed.
        """
        with part.open("rb") as file:
            start = file.read(ENOUGH_BYTES)
        if not start.startswith(MAGIC):
            part.unlink()
            why, fix = mistaken(start)
            raise DownloadError(
                f"{record.source} is not a GGUF file.",
                why=f"{why} Nothing was kept.",
                fix=f"{fix} A proxy or a login page may stand in between, too.",
            )
        path.unlink(missing_ok=True)  # otherwise the old file would briefly stand beside the new file's record
        write_json(_record_path(path), asdict(record))
        part.replace(path)


def require_space(folder: Path, needed: int, label: str) -> None:
    """Check that `needed` bytes are free on the disk where `folder` is or will be.

    Raises:
        DownloadError: less is free.
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
