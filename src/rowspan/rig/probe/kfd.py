"""AMD's compute driver's view: /sys/class/kfd/kfd/topology.

Files: `nodes/N/properties`, `nodes/N/io_links/M/properties`, `nodes/N/p2p_links/M/properties`, of lines "name number"
(drivers/gpu/drm/amd/amdkfd/kfd_topology.c).
"""

from __future__ import annotations

from dataclasses import dataclass

from rowspan.rig.root import Root, Unreadable

NODES = "/sys/class/kfd/kfd/topology/nodes"
PROCESSES = "/sys/class/kfd/kfd/proc"  # a folder for each process that holds /dev/kfd
LINK_TYPES = {2: "PCIe", 11: "XGMI"}  # HSA_IOLINKTYPE_*, include/uapi/linux/kfd_sysfs.h

# Graphics inside a processor; https://llvm.org/docs/AMDGPUUsage.html#processors, "APU"
APU_ARCHITECTURES = frozenset(
    (
        *("gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1103"),
        *("gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    )
)


@dataclass(frozen=True)
class GpuNode:
    """A card as the compute driver describes it. simd_count: number of its vector units."""

    number: int
    address: str
    arch: str
    simd_count: int


@dataclass(frozen=True)
class DirectLink:
    """A path from one node's memory to another's that does not pass through the host."""

    source: int
    target: int
    kind: str


def gpu_nodes(root: Root) -> list[GpuNode]:
    """List every card that the compute driver manages.

    Raises:
        Unreadable: no compute driver is loaded, or this user may not read a node.
    """
    if not root.has(NODES):
        raise Unreadable(NODES, "missing", "Load the module amdgpu; in a container, mount /sys.")
    nodes = []
    for path in root.glob(f"{NODES}/*/properties"):
        held = _properties(root, path)
        if held.get("simd_count"):
            number = int(path.split("/")[-2])
            arch = _arch(_value(held, path, "gfx_target_version"))
            nodes.append(GpuNode(number, _address(held), arch, held["simd_count"]))
    return sorted(nodes, key=lambda node: node.number)


def direct_links(root: Root) -> list[DirectLink]:
    """List the links between cards: PCIe peers from `p2p_links`, XGMI from `io_links`. Raises the same as
    `gpu_nodes`.
    """
    gpus = {node.number for node in gpu_nodes(root)}
    links = []
    for path in root.glob(f"{NODES}/*/*_links/*/properties"):
        held = _properties(root, path)
        source, target, kind = (_value(held, path, name) for name in ("node_from", "node_to", "type"))
        if source in gpus and target in gpus:
            links.append(DirectLink(source, target, LINK_TYPES.get(kind, f"type {kind}")))
    return links


def processes(root: Root) -> list[int]:
    """Ids of the processes that hold /dev/kfd open. Raises Unreadable if the kernel does not list them."""
    if not root.has(PROCESSES):
        raise Unreadable(PROCESSES, "missing")
    return [int(name) for name in root.names(PROCESSES) if name.isdigit()]


def _properties(root: Root, path: str) -> dict[str, int]:
    lines = (line.split() for line in root.text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def _value(held: dict[str, int], path: str, name: str) -> int:
    if name not in held:
        raise Unreadable(path, f"it has no {name}")
    return held[name]


def _address(held: dict[str, int]) -> str:
    """Convert `location_id`, which packs bus, device and function as pci_dev_id does, into a PCI address."""
    location = held.get("location_id", 0)
    bus, device, function = location >> 8 & 0xFF, location >> 3 & 0x1F, location & 7
    return f"{held.get('domain', 0):04x}:{bus:02x}:{device:02x}.{function}"


def _arch(version: int) -> str:
    """Convert a version number into LLVM's name: 110000 is gfx1100, 90010 is gfx90a."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}"
