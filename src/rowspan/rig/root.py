"""The machine as a folder of files: `/` is this one, any other folder a recorded one.

Everything that the probe and the doctor read comes through here, so that a recorded machine is a folder of small text
files at their real paths (`sys/…`, `proc/…`, `boot/…`). What is no file on a real machine has a place there too:

- `environ`: environment variables, one NAME=value a line;
- `commands/NAME`: what a command printed; `log/kernel`: the kernel's log;
- `not-permitted`: paths, one a line, `*` for any part, that this user may not open;
- `later/`: files as they are some seconds later, where they differ.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

SMALL_FILE = 8 << 20  # bytes; what is longer is no setting of a machine
BLOCK = 1 << 20  # /proc/sys refuses to read 4 MiB at once
COMMAND_SECONDS = 20.0


class Unreadable(Exception):
    """Something could not be read; what depends on it is unknown.

    Args:
        path: of the file, or the name of what was asked.
        why: "missing", "not permitted", or the system's words.
        fix: how it could be read, where that is known.
    """

    def __init__(self, path: str, why: str, fix: str = "") -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why
        self.fix = fix


class Missing(Unreadable):
    """There is no such file."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "missing")


class NotPermitted(Unreadable):
    """It is there, but not for this user."""

    def __init__(self, path: str, fix: str = "") -> None:
        super().__init__(path, "not permitted", fix)


class Root:
    """Reads files by their absolute paths, below a folder; without one, this machine's own.

    recorded: it is no living machine.
    """

    def __init__(self, *folders: Path) -> None:
        # The first that has a file gives it.
        self._folders = tuple(folder.resolve() for folder in folders) or (Path("/"),)
        self.recorded = self._folders != (Path("/"),)

    def text(self, path: str) -> str:
        """A small file's text, without white space at its ends, and without zero bytes.

        Raises:
            Unreadable: it is missing, or not permitted.
        """
        return self.raw(path).decode(errors="replace").replace("\0", "").strip()

    def raw(self, path: str) -> bytes:
        """A file's bytes, `SMALL_FILE` of them at most; see `text`."""
        read = bytearray()
        for block in self.blocks(path):
            read += block
            if len(read) >= SMALL_FILE:
                break
        return bytes(read)

    def zipped_text(self, path: str) -> str:
        """The text of a gzip file; see `text`."""
        try:
            return gzip.decompress(self.raw(path)).decode(errors="replace")
        except (OSError, EOFError) as error:
            raise Unreadable(path, str(error)) from error

    def number(self, path: str) -> int:
        """A file's number, decimal or after 0x; see `text`."""
        text = self.text(path)
        try:
            return int(text, 0)
        except ValueError:
            raise Unreadable(path, f"{text[:40]!r} is no number") from None

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder, permitted or not."""
        return self._place(path) is not None

    def names(self, path: str) -> list[str]:
        """A folder's entries, sorted; none where there is no such folder, or it may not be read."""
        if self._forbidden(path):
            return []
        found: set[str] = set()
        for folder in self._folders:
            place = self._inside(folder, path)
            with contextlib.suppress(OSError):
                found.update(os.listdir(place) if place else ())
        return sorted(found)

    def glob(self, pattern: str) -> list[str]:
        """Paths that fit a pattern of which whole or parts of names are `*`, sorted."""
        paths = ["/"]
        for part in PurePosixPath(pattern).parts[1:]:
            if "*" in part or "[" in part:
                paths = [os.path.join(at, name) for at in paths for name in self.names(at) if fnmatchcase(name, part)]
            else:
                paths = [os.path.join(at, part) for at in paths]
        return [path for path in paths if self.has(path)]

    def target(self, path: str) -> str:
        """Where a link leads, as an absolute path; the path itself where it is none.

        Raises:
            Missing: there is no such path, or it leads out of the folder.
        """
        for folder in self._folders:
            place = self._inside(folder, path)
            if place is not None and place.exists():
                return "/" + str(place.resolve().relative_to(folder))
        raise Missing(path)

    def may_open(self, path: str) -> bool:
        """Whether this user may read and write it, as a device wants to be opened.

        Raises:
            Missing: there is no such path.
        """
        if not self.has(path):
            raise Missing(path)
        return not self._forbidden(path) and (self.recorded or os.access(path, os.R_OK | os.W_OK))

    def open(self, path: str) -> BinaryIO:
        """A file to read from. Raises: as `text`."""
        if self._forbidden(path):
            raise NotPermitted(path)
        place = self._place(path)
        if place is None:
            raise Missing(path)
        with _explained(path):
            return place.open("rb")

    def blocks(self, path: str) -> Iterator[bytes]:
        """A file of any length, a block at a time; see `text`."""
        with self.open(path) as file, _explained(path):
            while block := file.read(BLOCK):
                yield block

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Environment variables: of this process, or as recorded. Raises Missing where none are recorded."""
        if not self.recorded:
            return dict(os.environ)
        return dict(line.split("=", 1) for line in self.text("/environ").splitlines() if "=" in line)

    def command(self, name: str, *arguments: str) -> str:
        """What a command prints to either stream; as recorded, the text of `commands/NAME`.

        Raises:
            Missing: there is no such command.
            Unreadable: it fails, or takes too long.
        """
        if self.recorded:
            return self.text(f"/commands/{name}")
        if shutil.which(name) is None:
            raise Missing(name)
        call = [name, *arguments]
        try:
            done = subprocess.run(
                call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreadable(" ".join(call), str(error)) from error
        return done.stdout.decode(errors="replace").strip()

    def later(self, seconds: float) -> Root:
        """The machine that much later: waits on a real one."""
        if not self.recorded:
            time.sleep(seconds)
            return self
        return Root(self._folders[0] / "later", *self._folders)

    @cached_property
    def _not_permitted(self) -> list[str]:
        if not self.recorded:
            return []
        lists = [folder / "not-permitted" for folder in self._folders]
        return [
            line.strip() for file in lists if file.exists() for line in file.read_text(errors="replace").splitlines()
        ]

    def _forbidden(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self._not_permitted if pattern)

    def _place(self, path: str) -> Path | None:
        """The file's place on this machine; None: there is none."""
        for folder in self._folders:
            place = self._inside(folder, path)
            if place is not None and os.path.lexists(place):
                return place
        return None

    def _inside(self, folder: Path, path: str) -> Path | None:
        """None where links would lead out of a recorded machine: it may come from anyone."""
        place = folder / path.lstrip("/")
        return place if not self.recorded or place.resolve().is_relative_to(folder) else None


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(path) from None
    except PermissionError:
        raise NotPermitted(path) from None
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
