"""Reads kernel, distribution and boot options."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rowspan.rig.probe.reader import Reader

FAMILIES = ("debian", "fedora", "arch")  # whose commands the fixes know; Ubuntu is Debian's


@dataclass(frozen=True)
class System:
    """The operating system; texts are empty if they could not be read. family: one of `FAMILIES`, or None for another
    distribution.
    """

    kernel: str
    distribution: str
    family: str | None
    boot_options: tuple[str, ...]

    @property
    def kernel_version(self) -> tuple[int, int] | None:
        """Major and minor version, such as (6, 8)."""
        match = re.match(r"(\d+)\.(\d+)", self.kernel)
        return (int(match[1]), int(match[2])) if match else None


def probe_system(reader: Reader) -> System:
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', reader.text("/etc/os-release") or "", re.MULTILINE))
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return System(
        kernel=reader.text("/proc/sys/kernel/osrelease") or "",
        distribution=release.get("PRETTY_NAME", ""),
        family=next((name for name in names if name in FAMILIES), None),
        boot_options=tuple((reader.text("/proc/cmdline") or "").split()),
    )
