"""Check: AMD cards rest while nothing is asked of them."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import kfd, pci
from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Root

IDLE_PERCENT = 5
SECONDS = 5.0


def look(machine: Machine) -> Outcome:
    addresses = [card.address for card in machine.cards("AMD")]
    holders = kfd.processes(machine.root)
    if not holders:
        return passed(f"{kfd.PROCESSES}: no process holds /dev/kfd")
    first = _busy(machine.root, addresses)
    told = f"{kfd.PROCESSES}: {len(holders)} processes hold /dev/kfd"
    if max(first.values()) < IDLE_PERCENT:
        return passed(told, *_words(machine.root, first))
    after = machine.root.later(SECONDS)
    second = _busy(after, addresses)
    evidence = (told, *_words(machine.root, first), f"{SECONDS:.0f} s later:", *_words(after, second))
    burning = any(min(first[address], second[address]) >= IDLE_PERCENT for address in addresses)
    return found(*evidence) if burning else passed(*evidence)


def _busy(root: Root, addresses: list[str]) -> dict[str, int]:
    return {address: root.number(f"{pci.folder(address)}/gpu_busy_percent") for address in addresses}


def _words(root: Root, busy: dict[str, int]) -> list[str]:
    reader = Reader(root)
    words = []
    for address, percent in busy.items():
        microwatts = reader.first_number(f"{pci.folder(address)}/hwmon/hwmon*/power1_[ai]*")
        watts = f", {microwatts / 1e6:.0f} W" if microwatts is not None else ""
        words.append(f"{pci.folder(address)}/gpu_busy_percent: {percent} %{watts}")
    return words


CHECK = Check(
    id="amd.idle",
    title="Idle means idle",
    reads=(kfd.PROCESSES, "gpu_busy_percent and power1_average or power1_input of each card, twice, 5 s apart"),
    healthy=f"below {IDLE_PERCENT} % and near idle watts",
    symptom="About 100 % busy and 100 W more with a model merely loaded. If a request was being answered just now, "
    "this is no fault: look again when none is.",
    fix=Fix(
        "Start the program with GPU_MAX_HW_QUEUES=1; on RDNA 4 install MES firmware 0x8b or newer; or unload the "
        "model when it is not needed.",
        {"": ("GPU_MAX_HW_QUEUES=1 llama-server …",)},
    ),
    need=Need.ANY,
    impact=Impact.SLOW,
    sureness=Sureness.HIGH,
    sources=("https://docs.kernel.org/gpu/amdgpu/thermal.html",),
    look=look,
)
