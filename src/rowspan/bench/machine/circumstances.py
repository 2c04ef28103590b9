"""The circumstances of a measured rate besides engine and model: the machine, its settings, and its present state.

Everything is read through `rowspan.rig`; a value that cannot be read is None.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import psutil

from rowspan.rig.probe import nvml, pci
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.reader import Reader
from rowspan.rig.probe.rig import Rig, probe, probe_cards
from rowspan.rig.root import Root, Unreadable

CPU = "/sys/devices/system/cpu"
# Boot options that say where the system is: no rate depends on them.
BOOTING = ("BOOT_IMAGE", "root", "init", "rdinit", "initrd", "resume", "ro", "rw")
LOOK_SECONDS = 0.2  # how long other programs' share of the processor is watched


def machine_fields(rig: Rig, root: Root) -> dict[str, Any]:
    """Fields of a row that stay the same while a benchmark runs."""
    reader = Reader(root)
    cards = rig.compute_cards
    return {
        "cpu_info": rig.cpu.model,
        "gpu_info": ", ".join(card.name for card in cards),
        "cpu_cores": rig.cpu.cores,
        "memory_bytes": rig.memory.total or None,
        "card_links": link_text(cards),
        "peer_access": _peer_text(rig),
        "kernel": rig.system.kernel or None,
        "distribution": rig.system.distribution or None,
        "boot_options": _boot_text(rig.system.boot_options),
        "bios": reader.text("/sys/class/dmi/id/bios_version"),
        "microcode": _first(r"^microcode\s*:\s*(\S+)$", reader.text("/proc/cpuinfo")),
        "driver": _joined(sorted({card.driver for card in cards if card.driver})),
        "firmware": _joined(sorted({f"{part} {version}" for card in cards for part, version in card.firmware})),
        "governor": _joined(
            sorted({text for at in root.glob(f"{CPU}/cpu[0-9]*/cpufreq") if (text := _policy(reader, at))})
        ),
        "power_caps": _per_card(card.watts_limit for card in cards),
    }


@dataclass(frozen=True)
class MachineState:
    """The machine's state at one moment. Values per card are comma-separated texts, or None.

    cpu_celsius: temperature at the processor's hottest sensor.
    throttled: how often the processor has slowed down for heat since boot.
    """

    cpu_mhz: float | None
    cpu_celsius: float | None
    card_mhz: str | None
    card_celsius: str | None
    throttled: int | None
    hottest: float | None  # degrees Celsius at the hottest sensor of processor and cards


def look(root: Root) -> MachineState:
    """The machine's present state; takes milliseconds, or longer if a card's driver is slow."""
    reader, cards = Reader(root), [card for card in probe_cards(root) if not card.integrated]
    celsius = _cpu_celsius(reader)
    known = [value for value in (celsius, *(card.celsius for card in cards)) if value is not None]
    throttled = [reader.number(path) for path in root.glob(f"{CPU}/cpu[0-9]*/thermal_throttle/package_throttle_count")]
    return MachineState(
        cpu_mhz=_cpu_mhz(reader),
        cpu_celsius=celsius,
        card_mhz=_per_card(_card_mhz(reader, card) for card in cards),
        card_celsius=_per_card(card.celsius for card in cards),
        throttled=max((count for count in throttled if count is not None), default=None),
        hottest=max(known, default=None),
    )


def state_fields(before: MachineState, after: MachineState) -> dict[str, Any]:
    """Fields of a row that describe the machine before and after a repetition."""
    throttled = None if before.throttled is None or after.throttled is None else after.throttled - before.throttled
    fields: dict[str, Any] = {"throttle_events": throttled}
    for name in ("cpu_mhz", "cpu_celsius", "card_mhz", "card_celsius"):
        fields |= {f"{name}_before": getattr(before, name), f"{name}_after": getattr(after, name)}
    return fields


def other_load() -> float:
    """Share of the processor, 0 to 1, that other programs use while this one and its engines rest."""
    return psutil.cpu_percent(interval=LOOK_SECONDS) / 100


class StolenTime:
    """Measures the share of a virtual machine's processor time that its host gave to others."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float | None:
        """The share since this object was made; None if the system does not count it."""
        now = psutil.cpu_times()
        if not hasattr(now, "steal"):
            return None
        total = sum(now) - sum(self._before)
        return (now.steal - self._before.steal) / total if total > 0 else None


def link_text(cards: Iterable[Card]) -> str | None:
    """The present PCIe link of each card: "16.0 GT/s x16"."""
    links = [card.link for card in cards if card.link is not None and card.link.width is not None]
    return _joined(f"{link.speed or '?'} GT/s x{link.width}" for link in links)


def links_now(root: Root) -> str | None:
    """The links of this machine's cards, as `link_text` writes them. Idle links slow down: call this under load."""
    return link_text(card for card in probe_cards(root) if not card.integrated)


def this_machine() -> tuple[Root, Rig]:
    """The machine that this program runs on."""
    root = Root()
    return root, probe(root)


def _boot_text(options: Sequence[str]) -> str | None:
    """The kernel's boot options, without those for the init program (behind "--") and those that say where to boot
    from.
    """
    own = takewhile(lambda option: option != "--", options)
    return " ".join(option for option in own if option.partition("=")[0] not in BOOTING) or None


def _peer_text(rig: Rig) -> str | None:
    if not rig.peers:
        return None
    reached = [peer.direct for peer in rig.peers]
    if None in reached:
        return "unknown"
    ways = sorted({peer.how for peer in rig.peers if peer.direct and peer.how})
    return f"{sum(map(bool, reached))} of {len(reached)} pairs{' by ' + ', '.join(ways) if ways else ''}"


def _policy(reader: Reader, folder: str) -> str | None:
    governor = reader.text(f"{folder}/scaling_governor")
    preference = reader.text(f"{folder}/energy_performance_preference")
    return f"{governor} (EPP {preference})" if governor and preference else governor


def _cpu_mhz(reader: Reader) -> float | None:
    kilohertz = [reader.number(path) for path in reader.root.glob(f"{CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [value / 1e3 for value in kilohertz if value is not None]
    if not known:
        known = [
            float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", reader.text("/proc/cpuinfo") or "", re.M)
        ]
    return statistics.fmean(known) if known else None


def _cpu_celsius(reader: Reader) -> float | None:
    """Temperature by Intel's coretemp or AMD's k10temp, see https://docs.kernel.org/hwmon/."""
    found = []
    for folder in reader.root.glob("/sys/class/hwmon/hwmon*"):
        if reader.text(f"{folder}/name") in ("coretemp", "k10temp", "zenpower"):
            found += [reader.number(path) for path in reader.root.glob(f"{folder}/temp*_input")]
    return max((value / 1e3 for value in found if value is not None), default=None)


def _card_mhz(reader: Reader, card: Card) -> float | None:
    if card.vendor == "NVIDIA":
        try:
            asked = nvml.ask(reader.root).cards
        except Unreadable:
            return None
        return next((one.mhz for one in asked if one.address == card.address), None)
    hertz = reader.first_number(f"{pci.folder(card.address)}/hwmon/hwmon*/freq1_input")
    return None if hertz is None else hertz / 1e6


def _first(pattern: str, text: str | None) -> str | None:
    match = re.search(pattern, text or "", re.MULTILINE)
    return match[1] if match else None


def _per_card(values: Iterable[float | None]) -> str | None:
    """Values joined by commas, with "-" for a card that does not tell; None if no card does."""
    listed = list(values)
    if all(value is None for value in listed):
        return None
    return ", ".join("-" if value is None else f"{value:g}" for value in listed)


def _joined(texts: Iterable[str]) -> str | None:
    return ", ".join(texts) or None
