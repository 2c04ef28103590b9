"""The interface of all places that models come from, and the types that the hub returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rowspan.config import HubConfig
from rowspan.hub.download_progress import ProgressSink


class Source(Protocol):
    """One model in one place. `str(source)` is a name that `rowspan.hub.resolve` takes."""

    @property
    def kind(self) -> str:
        """The kind of place, as people call it: "Hugging Face"."""
        ...

    def locate(self, config: HubConfig) -> list[Path] | None:
        """The model's files, in order, if they are all on this machine; None otherwise. Never uses the network."""
        ...

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        """Bring the model here and return its files in order. `label` is the model's name in progress reports.

        Raises:
            ModelNotFoundError: the place answers, but has no such model.
            DownloadError: anything else went wrong.
        """
        ...


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    name: canonical name, e.g. "smollm2:135m".
    path: its only file, or the first of several (`-00001-of-0000N`), which lie beside it.
    size: bytes of all files together.
    source: the long name of the place that it came from, e.g. "hf:org/repo:file.gguf".
    sha256: checksum of the only file when Rowspan fetched it; None if there are several or another program fetched it.
    """

    name: str
    path: Path
    size: int
    source: str
    sha256: str | None


@dataclass(frozen=True)
class InstalledModel:
    """A model in a cache folder. `modified` is in seconds since 1970."""

    name: str
    path: Path
    size: int
    source: str
    modified: float
