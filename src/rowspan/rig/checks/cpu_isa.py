"""Check: the processor has AVX2 or better, and Rowspan's kernels use the best instruction set that it has."""

from __future__ import annotations

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Unreadable

CPUINFO = "/proc/cpuinfo"
# The processor's features that each set of kernels needs, worst set first; see native/module.cpp.
AVX2 = frozenset(("avx2", "fma", "f16c"))
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
NEEDED = {
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": AVX512 | {"avx512_bf16"},
    "amx": AVX512 | {"amx_tile", "amx_int8", "amx_bf16"},
}


def look(machine: Machine) -> Outcome:
    flags = frozenset(machine.rig.cpu.flags)
    if not flags:
        raise Unreadable(CPUINFO, "it names no instruction sets")
    if "asimd" in flags:
        raise DoesNotApply("no x86 processor")
    evidence = f"{CPUINFO}: {', '.join(machine.rig.cpu.flags)}"
    expected = [name for name, needed in NEEDED.items() if needed <= flags]
    if not expected:
        return found(evidence, "no AVX2 with FMA and F16C: only torch's kernels run")
    best = expected[-1]
    if machine.kernels is not None and best not in machine.kernels:
        return found(evidence, f"kernels for {best} do not run here; those that do: {', '.join(machine.kernels)}")
    return passed(evidence, f"best kernels: {best}")


CHECK = Check(
    id="cpu.isa",
    title="Instruction sets of the processor",
    reads=(CPUINFO, "Rowspan's native kernels"),
    healthy="AVX2 or better, and kernels for the best the processor has",
    symptom="Models on the processor run several times slower than they could.",
    fix=Fix(
        "In a virtual machine, hand the host's processor through. Where AMX is not permitted, use Linux 5.16 or "
        "newer and a hypervisor that allows it. Where Rowspan was built without native kernels, install it again "
        "with g++ or clang.",
        {
            "": ("qemu-system-x86_64 -cpu host …",),
            "debian": ("sudo apt install g++ && pip install --force-reinstall --no-deps rowspan",),
            "fedora": ("sudo dnf install gcc-c++ && pip install --force-reinstall --no-deps rowspan",),
            "arch": ("sudo pacman -S gcc && pip install --force-reinstall --no-deps rowspan",),
        },
    ),
    need=Need.ANY,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://docs.kernel.org/arch/x86/xstate.html",),
    look=look,
)
