"""Reads AMD's cards from sysfs: the PCI device's folder, its hwmon, and the compute driver's topology.

Attributes: https://docs.kernel.org/gpu/amdgpu/driver-misc.html and https://docs.kernel.org/gpu/amdgpu/thermal.html
"""

from __future__ import annotations

from itertools import permutations

from rowspan.rig.probe import kfd, pci, pci_names
from rowspan.rig.probe.cards import Card, Peer
from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Root, Unreadable

DRIVER = "/sys/module/amdgpu"
DISPLAY_CLASS = 0x0300
FIRMWARE = ("mes", "mes_kiq", "smc", "sdma", "mec", "rlc")


def probe_card(reader: Reader, address: str, nodes: list[kfd.GpuNode]) -> Card:
    """Read one card. Raises Unreadable if sysfs does not show the card's device folder."""
    root, at = reader.root, pci.folder(address)
    arch = next((node.arch for node in nodes if node.address == address), None)
    total, used = reader.number(f"{at}/mem_info_vram_total"), reader.number(f"{at}/mem_info_vram_used")
    hwmon = f"{at}/hwmon/hwmon*"
    watts = reader.first_number(f"{hwmon}/power1_average") or reader.first_number(f"{hwmon}/power1_input")
    limit = reader.first_number(f"{hwmon}/power1_cap")
    celsius = reader.first_number(f"{hwmon}/temp1_input")
    firmware = ((name, reader.text(f"{at}/fw_version/{name}_fw_version")) for name in FIRMWARE)
    return Card(
        address,
        "AMD",
        _name(reader, address, arch),
        arch,
        _integrated(root, address, arch),
        memory_total=total,
        memory_free=None if total is None or used is None else total - used,
        memory_visible=reader.number(f"{at}/mem_info_vis_vram_total"),
        driver=driver(reader),
        firmware=(
            *((name, version) for name, version in firmware if version),
            *((("vbios", vbios),) if (vbios := reader.text(f"{at}/vbios_version")) else ()),
        ),
        link=pci.link(root, address),
        lanes=pci.lanes(root, address),
        numa_node=reader.number(f"{at}/numa_node"),
        displays=displays(reader, address),
        busy=reader.number(f"{at}/gpu_busy_percent"),
        watts=None if watts is None else watts / 1e6,  # from microwatts
        watts_limit=None if limit is None else limit / 1e6,
        celsius=None if celsius is None else celsius / 1e3,
        render_node=render_node(root, address),
    )


def driver(reader: Reader) -> str | None:
    """The driver's name, with the version if it is AMD's DKMS build: the kernel's own module has no version."""
    if not reader.root.has(DRIVER):
        return None
    version = reader.text(f"{DRIVER}/version")
    return f"amdgpu {version} (DKMS)" if version else "amdgpu (in-tree)"


def displays(reader: Reader, address: str) -> tuple[str, ...] | None:
    """The connectors that a screen is plugged into, such as DP-1; None if the driver shows no connector of this
    card.
    """
    paths = reader.root.glob(f"{pci.folder(address)}/drm/card*/card*-*/status")
    if not paths and not reader.root.has(f"{pci.folder(address)}/drm"):
        return None
    connected = (path.split("/")[-2] for path in paths if reader.text(path) == "connected")
    return tuple(name.split("-", 1)[1] for name in connected)


def render_node(root: Root, address: str) -> str | None:
    """The card's render device, such as /dev/dri/renderD128."""
    names = root.names(f"{pci.folder(address)}/drm")
    return next((f"/dev/dri/{name}" for name in names if name.startswith("renderD")), None)


def peers(root: Root, addresses: list[str]) -> list[Peer]:
    """Every ordered pair of these cards, as the compute driver links them; `direct` is None if the links cannot be
    read.
    """
    pairs = permutations(addresses, 2)
    try:
        place = {node.number: node.address for node in kfd.gpu_nodes(root)}
        links = {(place[link.source], place[link.target]): link.kind for link in kfd.direct_links(root)}
    except Unreadable:
        return [Peer(*pair, None) for pair in pairs]
    return [Peer(*pair, pair in links, links.get(pair, "")) for pair in pairs]


def _integrated(root: Root, address: str, arch: str | None) -> bool:
    """Whether the card is part of the processor: by its architecture, or else by whether it has the switch that AMD's
    discrete cards carry.
    """
    if arch is not None:
        return arch in kfd.APU_ARCHITECTURES
    path = pci.root_path(root, address)
    below_processor = len(path) == 2 and pci.vendor(root, path[0]) == pci.AMD_PROCESSOR
    return below_processor and pci.device_class(root, address) == DISPLAY_CLASS


def _name(reader: Reader, address: str, arch: str | None) -> str:
    at = pci.folder(address)
    name = reader.text(f"{at}/product_name")  # only cards with an identification chip have it
    if name:
        return name
    device = reader.number(f"{at}/device") or 0
    listed = pci_names.device_name(reader.root, pci.AMD, device)
    return f"AMD {listed or arch or ''} [1002:{device:04x}]".replace("  ", " ")
