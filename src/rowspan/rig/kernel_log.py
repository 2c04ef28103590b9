"""Searches the kernel's log, of any length, in bounded memory: known lines, each with its time and its card."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rowspan.rig.root import BLOCK, NotPermitted, Root

RECORDED = "/log/kernel"
KEPT = 20  # latest hits that are kept per check and device; all are counted
MOST_PLACES = 64  # devices whose hits are kept per check, those heard of last
COMMANDS = (
    ("journalctl", "-k", "-b", "-q", "--no-pager", "--no-hostname", "-o", "short-iso"),
    ("dmesg", "--time-format", "iso"),
)
PERMISSION = "Read the log with sudo, or join the group that may: sudo usermod -aG systemd-journal,adm $USER"

# "[  203.05]" of dmesg, "2024-05-01T10:00:00+0000 host kernel:" and "May 01 10:00:00 host kernel:" of journals
_TIME = re.compile(
    r"^(?:\[\s*(?P<since_boot>\d+\.\d+)\]|(?P<clock>\d{4}-\d\d-\d\dT[\d:.,+-]+|[A-Z][a-z]{2} [ \d]\d [\d:]{8}))\s*"
    r"(?:(?:\S+ )?kernel: )?(?:\[\s*(?P<uptime>\d+\.\d+)\] ?)?"
)
_ADDRESS = re.compile(r"\b([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-7])?)", re.IGNORECASE)


@dataclass(frozen=True)
class LogPattern:
    """A line to look for: it must contain `literal`, which is quick to find, and match `regex`."""

    literal: str
    regex: str

    def fits(self, message: str) -> re.Match[str] | None:
        return re.search(self.regex, message)


@dataclass(frozen=True, order=True)
class Hit:
    """A log line that a pattern matched.

    time: as logged, with " s" behind it if it counts seconds since boot; empty if the line has none.
    addresses: the PCI addresses in the line, in their order.
    """

    time: str
    addresses: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.time}  {self.message}" if self.time else self.message


@dataclass
class Hits:
    """A check's matching lines: their number, and the latest of them. One device that floods the log, such as a failing
    disk, does not drive out what it says of another.
    """

    count: int = 0
    _by_place: dict[tuple[str, ...], deque[tuple[int, Hit]]] = field(default_factory=dict)

    def add(self, hit: Hit) -> None:
        self.count += 1
        kept = self._by_place.pop(hit.addresses, None) or deque(maxlen=KEPT)
        kept.append((self.count, hit))
        self._by_place[hit.addresses] = kept  # now the last one
        if len(self._by_place) > MOST_PLACES:
            del self._by_place[next(iter(self._by_place))]

    @property
    def latest(self) -> list[Hit]:
        """Those that are kept, in the order of the log."""
        numbered = sorted((number, hit) for kept in self._by_place.values() for number, hit in kept)
        return [hit for _, hit in numbered]


def blocks(root: Root) -> Iterator[bytes]:
    """Read the log block by block.

    Raises:
        Unreadable: this user may not read it, or no way to read it exists.
    """
    if root.recorded:
        yield from root.blocks(RECORDED)
        return
    for command in COMMANDS:
        if shutil.which(command[0]) is None:
            continue
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            if first := process.stdout.read(BLOCK):  # without permission they print nothing
                yield first
                while block := process.stdout.read(BLOCK):
                    yield block
                return
    raise NotPermitted("the kernel's log", PERMISSION)


def scan(log: Iterable[bytes], patterns: Mapping[str, Sequence[LogPattern]]) -> dict[str, Hits]:
    """Search a log in one pass, with at most about two blocks in memory.

    Args:
        patterns: by the check's id. A line counts once for a check, even if several of its patterns match.
    """
    found = {name: Hits() for name in patterns}
    rest = b""
    for block in log:
        whole, _, tail = (rest + block).rpartition(b"\n")
        if not whole and len(tail) > BLOCK:  # skip: no line is that long
            whole, tail = tail, b""
        _scan_lines(whole, patterns, found)
        rest = tail
    _scan_lines(rest, patterns, found)
    return found


def _scan_lines(text: bytes, patterns: Mapping[str, Sequence[LogPattern]], found: dict[str, Hits]) -> None:
    for name, wanted in patterns.items():
        spots = {spot for pattern in wanted for spot in _lines_with(text, pattern.literal.encode())}
        for start, end in sorted(spots):
            hit = _hit(text[start:end].decode(errors="replace"))
            if any(pattern.fits(hit.message) for pattern in wanted):
                found[name].add(hit)


def _lines_with(text: bytes, literal: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line that contains a literal."""
    at = text.find(literal)
    while at >= 0:
        start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
        end = end if end >= 0 else len(text)
        yield start, end
        at = text.find(literal, end)


def _hit(line: str) -> Hit:
    prefix = _TIME.match(line)
    time = ""
    if prefix:
        since_boot = prefix["since_boot"] or prefix["uptime"]
        time = prefix["clock"] or f"{since_boot} s"
    message = line[prefix.end() if prefix else 0 :].strip()
    return Hit(time, tuple(address.lower() for address in _ADDRESS.findall(message)), message[:400])
