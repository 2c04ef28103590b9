"""What ranks on cards are told through their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowspan.comm.environment import rank_environment
from rowspan.rig.root import Root


def machine(folder: Path, *, amd: bool, rccl: str | None = None) -> Root:
    if amd:
        (folder / "dev").mkdir()
        (folder / "dev/kfd").touch()
    if rccl is not None:
        header = folder / "opt/rocm/include/rccl/rccl.h"
        header.parent.mkdir(parents=True)
        parts = zip(("MAJOR", "MINOR", "PATCH"), rccl.split("."), strict=True)
        header.write_text("\n".join(f"#define NCCL_{part} {number}" for part, number in parts))
    return Root(folder)


@pytest.mark.parametrize(
    ("amd", "rccl", "added"),
    [
        (False, None, {}),
        (True, None, {"GPU_MAX_HW_QUEUES": "1"}),
        (True, "2.22.3", {"GPU_MAX_HW_QUEUES": "1"}),
        (True, "2.27.7", {"GPU_MAX_HW_QUEUES": "1", "NCCL_PROTO": "Simple"}),
    ],
)
def test_each_maker_gets_its_own(tmp_path: Path, amd: bool, rccl: str | None, added: dict[str, str]) -> None:
    assert rank_environment({"HOME": "/root"}, machine(tmp_path, amd=amd, rccl=rccl)) == {"HOME": "/root", **added}


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    theirs = {"GPU_MAX_HW_QUEUES": "4", "NCCL_PROTO": ""}
    assert rank_environment(theirs, machine(tmp_path, amd=True, rccl="2.27.7")) == theirs
