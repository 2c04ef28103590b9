"""What a result says of its model."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.model.spec import ModelSpec

SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFacts:
    """type: architecture, size class and most frequent scheme, as llama-bench writes it: "llama 135M Q4_1". size: bytes
    of all tensors. n_params: their elements. sha256: of the file, where it is known without reading it all."""

    path: Path
    type: str
    size: int
    n_params: int
    fingerprint: str
    sha256: str | None

    def fields(self) -> dict[str, Any]:
        """A row's fields."""
        return {
            "model_filename": str(self.path),
            "model_type": self.type,
            "model_size": self.size,
            "model_n_params": self.n_params,
            "model_fingerprint": self.fingerprint,
            "model_sha256": self.sha256,
        }


def model_facts(checkpoint: GgufCheckpoint, spec: ModelSpec, sha256: str | None = None) -> ModelFacts:
    """Gather them from the header."""
    tensors = checkpoint.tensors.values()
    n_params = sum(math.prod(info.shape) for info in tensors)
    elements: Counter[str] = Counter()
    for info in tensors:
        elements[info.scheme] += math.prod(info.shape)
    scheme = elements.most_common(1)[0][0]
    return ModelFacts(
        path=checkpoint.paths[0],
        type=f"{spec.architecture} {count_text(n_params).replace(' ', '')} {scheme}",
        size=sum(info.nbytes for info in tensors),
        n_params=n_params,
        fingerprint=fingerprint(checkpoint.paths),
        sha256=sha256,
    )


def fingerprint(paths: tuple[Path, ...]) -> str:
    """SHA-256 over each file's size, first MiB and last MiB: tells files apart at once, however large they are. It is
    no checksum: a change in the middle goes unnoticed."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def count_text(count: int) -> str:
    """A number of parameters for people: "135 M", "7.2 B"."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= factor:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return str(count)
