"""Check: graphics inside the processor do not get in the way of the cards."""

from __future__ import annotations

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe import kfd

VARIABLES = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def look(machine: Machine) -> Outcome:
    machine.cards("AMD")
    nodes = kfd.gpu_nodes(machine.root)
    inside = [node for node in nodes if node.arch in kfd.APU_ARCHITECTURES]
    evidence = [f"{kfd.NODES}/{n.number}: {n.arch}, {n.simd_count} SIMDs, {n.address}" for n in nodes]
    if not inside:
        return passed(*evidence)
    chosen = [f"{name}={machine.root.environment[name]}" for name in VARIABLES if name in machine.root.environment]
    if chosen:
        return passed(*evidence, *chosen)
    return found(*evidence, f"none of {', '.join(VARIABLES)} is set in this environment")


CHECK = Check(
    id="amd.igpu",
    title="Only the cards that are meant",
    reads=("gfx_target_version and simd_count of /sys/class/kfd/kfd/topology/nodes/*/properties", *VARIABLES),
    healthy="ROCm sees only the cards that are to compute",
    symptom="Segmentation faults at the first kernel, or a model that runs, slowly, on the processor's graphics.",
    fix=Fix(
        "Name the cards that are to be seen, by their order in `rocminfo`, or switch the processor's graphics off in "
        "the setup.",
        {"": ("export ROCR_VISIBLE_DEVICES=0,1",)},
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html",),
    look=look,
)
