"""Reads PCI devices and their links from /sys/bus/pci/devices.

Attributes: https://docs.kernel.org/PCI/sysfs-pci.html and Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rowspan.rig.root import Root, Unreadable

DEVICES = "/sys/bus/pci/devices"
ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

AMD, NVIDIA, INTEL = 0x1002, 0x10DE, 0x8086
AMD_PROCESSOR = 0x1022  # host bridges, root ports and chipsets; AMD's cards are 0x1002
ASMEDIA = 0x1B21
INTEL_CHIPSET_PORTS = range(0x1A, 0x1E)  # device numbers of a chipset's root ports on bus 0
BRIDGE_CLASS = 0x0604


class Lanes(StrEnum):
    """Whether the processor or the chipset provides a slot's PCIe lanes."""

    CPU = "cpu"
    CHIPSET = "chipset"
    SWITCH = "switch"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Link:
    """The PCIe link between a card and its slot. Speeds in GT/s; None: unknown.

    port: PCI address of the function at which the link was read. AMD's cards carry a PCIe switch of their own: the link
        to the slot is that of its upstream port, and the GPU's own function may claim more.
    slot_width: number of lanes on the slot's side.
    """

    port: str
    speed: float | None
    width: int | None
    max_speed: float | None
    max_width: int | None
    slot_width: int | None
    slot_speed: float | None

    @property
    def best_width(self) -> int | None:
        """The number of lanes that card and slot both have."""
        return min((width for width in (self.max_width, self.slot_width) if width), default=None)

    @property
    def best_speed(self) -> float | None:
        """The speed in GT/s that card and slot both support."""
        return min((speed for speed in (self.max_speed, self.slot_speed) if speed), default=None)


def folder(address: str) -> str:
    return f"{DEVICES}/{address}"


def addresses(root: Root) -> list[str]:
    """PCI addresses of all functions in the machine.

    Raises:
        Unreadable: /sys does not show PCI devices.
    """
    if not root.has(DEVICES):
        raise Unreadable(DEVICES, "missing", "In a container, mount /sys.")
    return root.names(DEVICES)


def device_class(root: Root, address: str) -> int:
    """A device's PCI class and subclass, such as 0x0300. Raises Unreadable."""
    return root.number(f"{folder(address)}/class") >> 8


def vendor(root: Root, address: str) -> int:
    return root.number(f"{folder(address)}/vendor")


def root_path(root: Root, address: str) -> tuple[str, ...]:
    """PCI addresses of every function from the processor's root port down to the device itself.

    Raises:
        Unreadable: sysfs does not show the device's folder at the usual place.
    """
    return tuple(ADDRESS.findall(root.target(folder(address))))


def upstream_port(root: Root, address: str) -> str:
    """The card's end of the link to its slot: the topmost bridge made by the card's vendor, or else the card itself."""
    own = (at for at in root_path(root, address)[:-1] if vendor(root, at) == AMD)
    return next(own, address)


def link(root: Root, address: str) -> Link:
    """Read the link between a card and its slot. Raises Unreadable."""
    port = upstream_port(root, address)
    above = _above(root, port)
    at, slot = folder(port), folder(above) if above else None
    return Link(
        port,
        _speed(root, f"{at}/current_link_speed"),
        _width(root, f"{at}/current_link_width"),
        _speed(root, f"{at}/max_link_speed"),
        _width(root, f"{at}/max_link_width"),
        _width(root, f"{slot}/max_link_width") if slot else None,
        _speed(root, f"{slot}/max_link_speed") if slot else None,
    )


def lanes(root: Root, address: str) -> Lanes:
    """Whether a slot's lanes come from the processor or the chipset, judged by PCI ids and numbers. Raises
    Unreadable.
    """
    path = root_path(root, address)
    between = path[1 : path.index(upstream_port(root, address))]
    if any(vendor(root, at) in (AMD_PROCESSOR, ASMEDIA) for at in between):
        return Lanes.CHIPSET
    if between:
        return Lanes.SWITCH
    if len(path) < 2:
        return Lanes.UNKNOWN  # a virtual machine's bus, or part of the processor
    port = path[0]
    if vendor(root, port) == INTEL:
        bus, number = port.split(":", 1)[1].split(".")[0].split(":")
        return Lanes.CHIPSET if bus == "00" and int(number, 16) in INTEL_CHIPSET_PORTS else Lanes.CPU
    return Lanes.CPU if vendor(root, port) == AMD_PROCESSOR else Lanes.UNKNOWN


def bridges(root: Root, address: str) -> list[str]:
    """PCI addresses of the bridges above a device. Raises Unreadable."""
    return [at for at in root_path(root, address)[:-1] if device_class(root, at) == BRIDGE_CLASS]


def _above(root: Root, address: str) -> str | None:
    path = root_path(root, address)
    return path[-2] if len(path) > 1 else None


def _speed(root: Root, path: str) -> float | None:
    """The GT/s in a text such as "16.0 GT/s PCIe"."""
    try:
        match = re.match(r"([\d.]+) GT/s", root.text(path))
    except Unreadable:
        return None
    return float(match[1]) if match else None


def _width(root: Root, path: str) -> int | None:
    """The number of lanes; None if the kernel says 0 or 255, by which it means that it does not know."""
    try:
        width = root.number(path)
    except Unreadable:
        return None
    return width if 0 < width <= 32 else None
