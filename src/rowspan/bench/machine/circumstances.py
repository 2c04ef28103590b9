"""What a rate depends on beside engine and model: the machine, its settings, and its state at that moment.

Everything is read through `rowspan.rig`; what cannot be read is None.
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
# Boot options that say where the system is, which no rate depends on.
BOOTING = ("BOOT_IMAGE", "root", "init", "rdinit", "initrd", "resume", "ro", "rw")
LOOK_SECONDS = 0.2  # how long other programs' share of the processor is watched


def machine_fields(rig: Rig, root: Root) -> dict[str, Any]:
    """What stays as it is while a benchmark runs."""
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
    """A moment of the machine. celsius: of the processor's hottest sensor. Per card: comma lists, or None.

    throttled: how often the processor has slowed down for heat since it was started."""

    cpu_mhz: float | None
    cpu_celsius: float | None
    card_mhz: str | None
    card_celsius: str | None
    throttled: int | None
    hottest: float | None  # of processor and cards


def look(root: Root) -> MachineState:
    """Now; takes milliseconds (a card's driver may take longer)."""
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
    """A row's fields of both moments."""
    throttled = None if before.throttled is None or after.throttled is None else after.throttled - before.throttled
    fields: dict[str, Any] = {"throttle_events": throttled}
    for name in ("cpu_mhz", "cpu_celsius", "card_mhz", "card_celsius"):
        fields |= {f"{name}_before": getattr(before, name), f"{name}_after": getattr(after, name)}
    return fields


def other_load() -> float:
    """Share of the processor, 0 to 1, that others take while this program and its engines rest."""
    return psutil.cpu_percent(interval=LOOK_SECONDS) / 100


class StolenTime:
    """The share of the processor's time that the machine's host gave to others: of virtual machines."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float | None:
        """Since it was made; None where the system does not count it."""
        now = psutil.cpu_times()
        if not hasattr(now, "steal"):
            return None
        total = sum(now) - sum(self._before)
        return (now.steal - self._before.steal) / total if total > 0 else None


def link_text(cards: Iterable[Card]) -> str | None:
    """Each card's link now: "16.0 GT/s x16"."""
    links = [card.link for card in cards if card.link is not None and card.link.width is not None]
    return _joined(f"{link.speed or '?'} GT/s x{link.width}" for link in links)


def links_now(root: Root) -> str | None:
    """As `link_text`. Idle links slow down: ask under load."""
    return link_text(card for card in probe_cards(root) if not card.integrated)


def this_machine() -> tuple[Root, Rig]:
    """The machine that this program runs on."""
    root = Root()
    return root, probe(root)


def _boot_text(options: Sequence[str]) -> str | None:
    """The kernel's, without those of the first program (behind "--") and those that say where to boot from."""
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
    """Of Intel's coretemp and AMD's k10temp, by https://docs.kernel.org/hwmon/."""
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
    """ "-" for a card that does not say; None where none does."""
    listed = list(values)
    if all(value is None for value in listed):
        return None
    return ", ".join("-" if value is None else f"{value:g}" for value in listed)


def _joined(texts: Iterable[str]) -> str | None:
    return ", ".join(texts) or None
