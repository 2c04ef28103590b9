"""Removes from a text what tells whose machine it is, since reports are pasted in public."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Missing, Root

HUMAN_IDS = range(1000, 65534)  # user numbers that distributions give to people
SERIALS = ("serial_number", "unique_id")
NAMELESS = frozenset(("", "localhost", "root", "(none)"))

# Ordered: a longer form goes before one that would fit a part of it. PCI addresses (0000:03:00.0) fit none.
_PATTERNS = (
    (re.compile(r"\b(?:GPU-)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.I), "[uuid]"),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "[mail]"),
    (re.compile(r"\b(?:[0-9a-f]{2}[:-]){5,7}[0-9a-f]{2}\b", re.I), "[mac]"),
    (re.compile(r"(?<!\w)(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}(?!\w)", re.I), "[ip]"),
    (re.compile(r"(?<!\w)(?:[0-9a-f]{1,4}:){1,7}(?::[0-9a-f]{1,4}){1,7}(?!\w)", re.I), "[ip]"),
    (re.compile(r"(?<!\d)(?<!\d\.)\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)"), "[ip]"),
    (re.compile(r"(/(?:home|Users)/)[^/\s:'\"]+"), r"\1[user]"),
    (re.compile(r"(serial(?:[ _-]?(?:number|no\.?))?['\"]?\s*[:=#]?\s*)(?=\S*\d)[\w-]{4,}", re.I), r"\1[serial]"),
)


class Redactor:
    """Knows this machine's names, and replaces them and everything that looks like an address or a serial number."""

    def __init__(self, root: Root) -> None:
        self._names = [
            *((_word(name), "[host]") for name in _hosts(root)),
            *((_word(name), "[user]") for name in _users(root)),
            *((_word(number), "[serial]") for number in _serials(root)),
        ]

    def __call__(self, text: str) -> str:
        for pattern, stand_in in (*_PATTERNS, *self._names):
            text = pattern.sub(stand_in, text)
        return text


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)


def _hosts(root: Root) -> set[str]:
    reader = Reader(root)
    names = [reader.text(path) or "" for path in ("/proc/sys/kernel/hostname", "/etc/hostname")]
    return _known(part for name in names for part in (name, name.split(".")[0]))


def _users(root: Root) -> set[str]:
    try:
        environment = root.environment
    except Missing:
        environment = {}
    names = [environment.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")]
    people = re.findall(r"^([^:\n]+):[^:\n]*:(\d+):", Reader(root).text("/etc/passwd") or "", re.MULTILINE)
    return _known([*names, *(name for name, number in people if int(number) in HUMAN_IDS)])


def _serials(root: Root) -> set[str]:
    reader = Reader(root)
    paths = (path for name in SERIALS for path in root.glob(f"/sys/bus/pci/devices/*/{name}"))
    return _known(reader.text(path) or "" for path in paths)


def _known(names: Iterable[str]) -> set[str]:
    return {name for name in names if name not in NAMELESS}
