"""API keys: compared in constant time, kept as hashes, read anew when their file changes."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rowspan.errors import UsageError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the file
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class ApiKey:
    """A key. name: of whoever has it, for logs; digest: SHA-256 of the key, in hexadecimal."""

    name: str
    digest: str

    @classmethod
    def of(cls, key: str, name: str = "") -> ApiKey:
        digest = hashlib.sha256(key.encode(errors="replace")).hexdigest()
        return cls(name or f"key-{digest[:6]}", digest)


class KeyRing:
    """The keys that a server takes: those that were typed, and those of a file. Whoever is taken out of the file is out
    within a second.

    The file has one key a line: `NAME KEY`, or `NAME sha256:HASH` so that the file does not tell the key; `#` begins a
    comment.
    """

    def __init__(self, typed: Iterable[str] = (), file: Path | None = None) -> None:
        """Raises UsageError: the file cannot be read."""
        self._typed = tuple(ApiKey.of(key) for key in typed)
        self._file = file
        self._listed: tuple[ApiKey, ...] = ()
        self._changed = self._looked = 0.0
        if file is not None:
            try:
                self._read(file)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"--api-key-file {file} cannot be read.", why=f"{error}.", fix="One key a line: NAME KEY."
                ) from None

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._typed) or self._file is not None

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys at present. A file that has become unreadable changes nothing."""
        if self._file is not None and time.monotonic() > self._looked + LOOK_SECONDS:
            try:
                self._read(self._file)
            except (OSError, ValueError) as error:
                log.warning("The keys stay as they were: %s", error)
        return self._typed + self._listed

    def matching(self, given: bytes) -> ApiKey | None:
        """The key that was given, if it is one of these. All are compared, each in constant time: how long it takes
        must not tell how close a guess was.
        """
        digest = hashlib.sha256(given).hexdigest()
        matches = [key for key in self.keys if secrets.compare_digest(digest, key.digest)]
        return matches[0] if matches else None

    def _read(self, file: Path) -> None:
        self._looked = time.monotonic()
        changed = file.stat().st_mtime
        if changed != self._changed:
            self._listed = tuple(_listed(file.read_text()))
            self._changed = changed


def _listed(text: str) -> Iterable[ApiKey]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2:
            raise ValueError(f"line {number} has {len(words)} words")
        name, key = ("", words[0]) if len(words) == 1 else words
        hashed = _HASHED.fullmatch(key)
        yield ApiKey(name or f"key-{hashed[1][:6]}", hashed[1]) if hashed else ApiKey.of(key, name)
