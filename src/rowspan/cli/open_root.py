"""Opens the machine that `--root` names."""

from __future__ import annotations

from pathlib import Path

from rowspan.errors import UsageError
from rowspan.rig.root import Root


def open_root(folder: Path) -> Root:
    """This machine for `/`, else the machine recorded in a folder.

    Raises:
        UsageError: the folder does not exist, or holds no recorded machine.
    """
    if folder == Path("/"):
        return Root()
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder.", fix="Give the folder of a recorded machine, with sys, proc and so on."
        )
    if not any((folder / name).exists() for name in ("sys", "proc", "environ")):
        raise UsageError(
            f"{folder} holds no recorded machine.",
            why="It has neither sys, nor proc, nor environ.",
            fix="Give the folder in which these lie.",
        )
    return Root(folder)
