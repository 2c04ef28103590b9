"""Tells whether a model's files are still what they were when the model was opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rowspan.checkpoint.fingerprint import fingerprint
from rowspan.errors import CheckpointError


class ModelFiles:
    """The files of an opened model. Weights of another file must not be mixed with its tokenizer and plan."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._states()
        self._fingerprint = fingerprint(self._paths)

    def check(self, *, mapped: bool = False) -> None:
        """Look at the files again: 2 µs each, unless something is different.

        Args:
            mapped: workers have the files open; so one that was moved over another changes nothing for them, only what
                is written into an open file does.

        Raises:
            CheckpointError: a file has another content.
        """
        states = self._states()
        if states == self._seen:
            return
        if mapped and not any(
            now is not None and then is not None and now[:2] == then[:2] and now != then
            for now, then in zip(states, self._seen, strict=True)
        ):
            return
        if None in states:
            return  # whoever opens it says which is missing
        if fingerprint(self._paths) != self._fingerprint:
            raise CheckpointError(
                f"The model file {self._paths[0].name} has changed since the model was opened.",
                why="Its new weights do not belong to the tokenizer and the plan that were made from the old file.",
                fix="Start Rowspan again to use the new file, or put the old one back.",
            )
        self._seen = states  # touched, or copied over by itself

    def _states(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...] | None:
    """Device, inode, size and time of change of a file; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
