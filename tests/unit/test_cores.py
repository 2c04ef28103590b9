"""Cores in the order of the machine's build, from files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

from rowspan.engine.cores import in_order


def machine(folder: Path, places: list[tuple[int, int, int]]) -> Path:
    """Of each core: NUMA node, package, physical core."""
    for number, (node, package, core) in enumerate(places):
        cpu = folder / "cpu" / f"cpu{number}"
        (cpu / "topology").mkdir(parents=True)
        (cpu / f"node{node}").mkdir()
        (cpu / "topology" / "physical_package_id").write_text(f"{package}\n")
        (cpu / "topology" / "core_id").write_text(f"{core}\n")
    return folder


def test_threads_of_a_core_stay_together(tmp_path: Path) -> None:
    """Four cores of two threads, numbered as Linux does: second threads after all first ones."""
    system = machine(tmp_path, [(0, 0, core) for core in (0, 1, 2, 3)] * 2)
    assert in_order(range(8), system) == [0, 4, 1, 5, 2, 6, 3, 7]


def test_numa_nodes_stay_together(tmp_path: Path) -> None:
    """Two sockets whose cores are numbered in turns, as some firmware does."""
    system = machine(tmp_path, [(0, 0, 0), (1, 1, 0), (0, 0, 1), (1, 1, 1)])
    assert in_order({0, 1, 2, 3}, system) == [0, 2, 1, 3]
    assert in_order({3, 2, 1}, system) == [2, 1, 3]


def test_where_nothing_is_said_numbers_decide(tmp_path: Path) -> None:
    assert in_order({3, 1, 2}, tmp_path) == [1, 2, 3]
