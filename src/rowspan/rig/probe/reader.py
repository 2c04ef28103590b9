"""Reads files that may be absent: gives None in place of an error, and lists what only a privileged user may read."""

from __future__ import annotations

from rowspan.rig.root import NotPermitted, Root, Unreadable


class Reader:
    """Like `Root`, but for values that a card need not have: a missing one is None.

    denied: paths that exist but may not be read.
    """

    def __init__(self, root: Root) -> None:
        self.root = root
        self.denied: list[str] = []

    def text(self, path: str) -> str | None:
        try:
            return self.root.text(path) or None
        except Unreadable as error:
            self._note(error)
            return None

    def number(self, path: str) -> int | None:
        try:
            return self.root.number(path)
        except Unreadable as error:
            self._note(error)
            return None

    def first_number(self, pattern: str) -> int | None:
        """The number in the first file that matches a pattern and holds one."""
        numbers = (self.number(path) for path in self.root.glob(pattern))
        return next((number for number in numbers if number is not None), None)

    def _note(self, error: Unreadable) -> None:
        if isinstance(error, NotPermitted) and error.path not in self.denied:
            self.denied.append(error.path)
