"""Graphics and compute cards as their drivers describe them."""

from __future__ import annotations

from dataclasses import dataclass

from rowspan.rig.probe.pci import Lanes, Link


@dataclass(frozen=True)
class Card:
    """A graphics or compute card. A value is None if the driver does not tell it, or may not be asked.

    address: PCI address of the card's function.
    arch: such as gfx1100 or sm_89.
    integrated: whether it is part of the processor.
    memory_visible: bytes of its memory that the processor can address at once.
    driver: the driver's name with its version.
    firmware: names and versions.
    displays: connectors that a screen is plugged into.
    busy: percent of the last moment in which the card computed.
    watts, watts_limit, celsius: present power draw, its limit, and present temperature.
    """

    address: str
    vendor: str
    name: str
    arch: str | None = None
    integrated: bool = False
    memory_total: int | None = None
    memory_free: int | None = None
    memory_visible: int | None = None
    driver: str | None = None
    firmware: tuple[tuple[str, str], ...] = ()
    link: Link | None = None
    lanes: Lanes = Lanes.UNKNOWN
    numa_node: int | None = None
    displays: tuple[str, ...] | None = None
    busy: int | None = None
    watts: float | None = None
    watts_limit: float | None = None
    celsius: float | None = None
    render_node: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclass(frozen=True)
class Peer:
    """Whether one card reaches another's memory directly; `direct` is None if this is unknown.

    how: PCIe, XGMI or NVLink; or NVIDIA's letters for the reason why not: CNS the chipset, GNS the card, TNS the
        topology, DR a setting of the driver, NS not said.
    """

    source: str
    target: str
    direct: bool | None
    how: str = ""
