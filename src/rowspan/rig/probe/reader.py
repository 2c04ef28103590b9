"""Reading what may be absent: None instead of an error, and a list of what only a privileged user may see."""

from __future__ import annotations

from rowspan.rig.root import NotPermitted, Root, Unreadable


class Reader:
    """As `Root`, for values that a card need not have.

    denied: what was there but not permitted.
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
        """Of the first file that fits a pattern and holds a number."""
        numbers = (self.number(path) for path in self.root.glob(pattern))
        return next((number for number in numbers if number is not None), None)

    def _note(self, error: Unreadable) -> None:
        if isinstance(error, NotPermitted) and error.path not in self.denied:
            self.denied.append(error.path)
