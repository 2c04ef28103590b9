"""Models that are files on this machine already."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path

from rowspan.config import HubConfig
from rowspan.errors import ModelNotFoundError
from rowspan.hub.download_progress import ProgressSink
from rowspan.hub.gguf_files import part_names


@dataclass(frozen=True)
class LocalFile:
    """A model file at a path, absolute or relative to the working directory."""

    path: Path
    kind = "local file"

    def __str__(self) -> str:
        return str(self.path)

    def locate(self, config: HubConfig) -> list[Path] | None:
        parts = self._parts()
        return parts if all(map(os.path.isfile, parts)) else None

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        """Raise ModelNotFoundError, which says which file is missing: it cannot be fetched from anywhere."""
        if os.path.isdir(self.path):
            files = sorted(path.name for path in self.path.glob("*.gguf"))
            raise ModelNotFoundError(
                f"{self.path} is a folder.",
                why=f"It holds {', '.join(files)}." if files else "It holds no GGUF file.",
                fix="Give the path of a GGUF file.",
            )
        missing = [part.name for part in self._parts() if not os.path.isfile(part)]
        raise ModelNotFoundError(
            f"There is no model file {self.path}.",
            why=f"Missing: {', '.join(missing)}." if len(self._parts()) > 1 else f"Looked for {self.path.absolute()}.",
            fix="Check the path, or choose a model by name: `rowspan models` lists them.",
        )

    def _parts(self) -> list[Path]:
        return [self.path.with_name(name) for name in part_names(self.path.name)]
