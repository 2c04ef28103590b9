"""Check: cards hang on one processor, and the kernel does not move pages between nodes."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import pci
from rowspan.rig.root import Missing

BALANCING = "/proc/sys/kernel/numa_balancing"


def look(machine: Machine) -> Outcome:
    nodes = machine.rig.cpu.numa_nodes
    if nodes == 0:
        raise Missing("/sys/devices/system/node")
    if nodes == 1:
        raise DoesNotApply("one memory node")
    places = {card.address: machine.root.number(f"{pci.folder(card.address)}/numa_node") for card in machine.cards()}
    evidence = [f"{pci.folder(address)}/numa_node: {node}" for address, node in places.items()]
    balancing = machine.root.number(BALANCING)
    evidence.append(f"{BALANCING}: {balancing}")
    sockets = {_socket(machine, node) for node in places.values()}
    evidence.append(f"processor sockets of these nodes: {', '.join(sorted(map(str, sockets)))}")
    return found(*evidence) if balancing or len(sockets) > 1 else passed(*evidence)


def _socket(machine: Machine, node: int) -> int | str:
    """The processor that a memory node belongs to: one processor may show itself as several nodes (NPS2, NPS4), between
    which traffic does not leave it. What is not told counts as one of its own.
    """
    cpus = machine.root.text(f"/sys/devices/system/node/node{node}/cpulist") if node >= 0 else ""
    first = re.match(r"\d+", cpus)
    place = f"/sys/devices/system/cpu/cpu{first[0]}/topology/physical_package_id" if first else ""
    return machine.root.number(place) if place and machine.root.has(place) else f"of node {node}"


CHECK = Check(
    id="numa",
    title="Memory nodes (NUMA)",
    reads=("numa_node of each card", "physical_package_id of a core of each node", BALANCING),
    healthy="all cards at one processor; balancing is 0",
    symptom="Times vary from run to run; what cards exchange crosses between sockets.",
    errors=("NUMA auto balancing enabled which can lead to variability",),
    fix=Fix(
        "Switch balancing off, and put the cards into slots of one socket.",
        {
            "": (
                "sudo sysctl kernel.numa_balancing=0",
                "echo kernel.numa_balancing=0 | sudo tee /etc/sysctl.d/90-numa.conf",
            )
        },
    ),
    need=Need.SEVERAL,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://github.com/ROCm/rccl/pull/696", "https://docs.kernel.org/admin-guide/sysctl/kernel.html"),
    look=look,
)
