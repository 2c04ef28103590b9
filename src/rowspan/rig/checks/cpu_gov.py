"""Check: the processor's clock follows the load fast enough to launch kernels."""

from __future__ import annotations

from collections import Counter

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Missing

CPUS = "/sys/devices/system/cpu"
POLICIES = f"{CPUS}/cpu[0-9]*/cpufreq"


def look(machine: Machine) -> Outcome:
    folders = machine.root.glob(POLICIES)
    if not folders:
        if not machine.root.has(CPUS):
            raise Missing(CPUS)
        raise DoesNotApply("this machine shows no frequency scaling: a virtual machine, or fixed in the setup")
    seen = Counter(_policy(machine, folder) for folder in folders)
    evidence = [f"{POLICIES}: {policy} ({count} processors)" for policy, count in seen.most_common()]
    slow = any("performance" not in policy.replace("balance_performance", "").split() for policy in seen)
    return found(*evidence) if slow else passed(*evidence)


def _policy(machine: Machine, folder: str) -> str:
    governor = machine.root.text(f"{folder}/scaling_governor")
    preference = f"{folder}/energy_performance_preference"
    return f"{governor} with EPP {machine.root.text(preference)}" if machine.root.has(preference) else governor


CHECK = Check(
    id="cpu.gov",
    title="Processor's clock",
    reads=("cpufreq/scaling_governor and energy_performance_preference of each processor",),
    healthy="the governor, or the preference, is performance",
    symptom="Tokens of small models come slower than they could: every kernel is launched late.",
    fix=Fix(
        "Set the governor to performance.",
        {
            "debian": ("sudo apt install linux-cpupower", "sudo cpupower frequency-set -g performance"),
            "fedora": ("sudo dnf install kernel-tools", "sudo cpupower frequency-set -g performance"),
            "arch": ("sudo pacman -S cpupower", "sudo cpupower frequency-set -g performance"),
        },
    ),
    need=Need.ANY,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.kernel.org/admin-guide/pm/cpufreq.html",),
    look=look,
)
