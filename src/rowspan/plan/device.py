"""Names of devices: `cpu:0`, `cuda:1`. A `cpu:N` is an equal share of the machine's cores; ROCm cards are `cuda:N`. A
device of another host than the one that serves is `1/cpu:0`, with the host's number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rowspan.errors import UsageError


@dataclass(frozen=True, order=True)
class Device:
    kind: str
    index: int
    host: int = 0  # number of its host; host 0 serves

    def __str__(self) -> str:
        name = f"{self.kind}:{self.index}"
        return f"{self.host}/{name}" if self.host else name


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read a comma list such as "cpu:0,cpu:1"; "cpu" alone means "cpu:0". A card may be named twice: then two ranks
    share it, which shows on one card what a split does.

    Raises:
        UsageError: a name is no device, or a CPU is named twice.
    """
    devices = []
    for name in text.split(","):
        match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,4}))?", name.strip())
        if match is None:
            raise UsageError(
                f"{name.strip()!r} is not a device.",
                why="Devices are written cpu:0, cpu:1, cuda:0 and so on.",
                fix="Give a comma list such as --devices cpu:0,cpu:1.",
            )
        device = Device(match[1], int(match[2] or 0))
        if device in devices and device.kind == "cpu":
            raise UsageError(f"Device {device} is named twice.", fix="Name every device once.")
        devices.append(device)
    return tuple(devices)


def parse_ratios(text: str) -> tuple[float, ...]:
    """Read a `--tensor-split` comma list such as "3,1".

    Raises:
        UsageError: a part is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--tensor-split {text!r} is not a list of numbers.", fix="Give one share per device, such as 3,1."
        ) from None
