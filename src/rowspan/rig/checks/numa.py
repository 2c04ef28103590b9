"""Check: cards hang on one NUMA node, and the kernel does not move pages between nodes."""

from __future__ import annotations

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
    return found(*evidence) if balancing or len(set(places.values())) > 1 else passed(*evidence)


CHECK = Check(
    id="numa",
    title="Memory nodes (NUMA)",
    reads=("numa_node of each card", BALANCING),
    healthy="all cards on one node; balancing is 0",
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
