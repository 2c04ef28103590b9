"""Recorded machines: one text file each in `tests/rigs`, unpacked into the folder that `Root` reads.

A file begins with `#` lines that say what the machine is, and two that say what the doctor must answer for a row split:
`findings:`, by rank, and `unknown:`. Sections follow:

    == proc/cmdline                one file and its text
    == sys/devices/…/0000:03:00.0/ a folder; every line is a file in it, `name: text`
    == gzip proc/config.gz         a file that is packed
    == hex 4096 sys/…/config       a file of so many bytes, zeros but for lines `offset: bytes`

As the kernel does, every PCI device (a folder with a `vendor`) gets its link in `sys/bus/pci/devices`.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

RIGS = Path(__file__).parent.parent / "rigs"
PCI = "sys/bus/pci/devices"


@dataclass(frozen=True)
class RecordedRig:
    """findings: ids of checks, by rank. unknown: ids."""

    name: str
    findings: tuple[str, ...]
    unknown: frozenset[str]
    sections: tuple[tuple[str, str], ...]  # heading, body

    def unpack(self, folder: Path) -> Path:
        """Write the machine into a folder, and return it."""
        for heading, body in self.sections:
            form, _, path = heading.rpartition(" ")
            if path.endswith("/"):
                for line in filter(None, body.splitlines()):
                    name, _, text = line.partition(": ")
                    _write(folder / path / name, f"{text}\n".encode())
            else:
                _write(folder / path, _packed(form, body))
        for vendor in sorted(folder.glob("sys/devices/pci*/**/vendor")):
            link = folder / PCI / vendor.parent.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("../../../..") / vendor.parent.relative_to(folder))
        return folder


def recorded_rigs() -> dict[str, RecordedRig]:
    """All of them, by name."""
    return {path.stem: _read(path) for path in sorted(RIGS.glob("*.txt"))}


def unpack(name: str, folder: Path) -> Path:
    return recorded_rigs()[name].unpack(folder)


def _read(path: Path) -> RecordedRig:
    head, *parts = re.split(r"^== ", path.read_text(), flags=re.MULTILINE)
    expected = dict(re.findall(r"^(findings|unknown):(.*)$", head, re.MULTILINE))
    sections = tuple((heading, body) for heading, _, body in (part.partition("\n") for part in parts))
    return RecordedRig(path.stem, tuple(expected["findings"].split()), frozenset(expected["unknown"].split()), sections)


def _packed(form: str, body: str) -> bytes:
    kind, _, size = form.partition(" ")
    if kind == "gzip":
        return gzip.compress(body.encode(), mtime=0)
    if kind == "hex":
        raw = bytearray(int(size))
        for line in body.split("\n"):
            offset, _, digits = line.partition(":")
            if digits:
                piece = bytes.fromhex(digits)
                raw[int(offset, 16) : int(offset, 16) + len(piece)] = piece
        return bytes(raw)
    return body.encode()


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
