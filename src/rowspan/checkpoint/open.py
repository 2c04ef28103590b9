"""From a path to a `Checkpoint`, whatever the format."""

from __future__ import annotations

from pathlib import Path

from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.errors import ModelNotFoundError, UsageError


def open_checkpoint(path: Path) -> GgufCheckpoint:
    """Open a model's files: a GGUF file, or any part of a split one.

    Raises:
        ModelNotFoundError: there is no such file.
        UsageError: a folder, or something else that is not a readable file.
        CheckpointError, UnsupportedModelError: as `GgufCheckpoint` says.
    """
    if not path.exists():
        raise ModelNotFoundError(
            f"There is no file {path}.",
            fix="Check the path, or give the name of a model: `rowspan models` lists them.",
        )
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.gguf"))
        raise UsageError(
            f"{path} is a folder, not a model file.",
            why="It holds " + (", ".join(inside[:3]) if inside else "no .gguf file") + ".",
            fix="Give the path of a .gguf file.",
        )
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file.", fix="Give the path of a .gguf file.")
    return GgufCheckpoint(path)
