"""Facts for a benchmark's rows about the model that was measured."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowspan.checkpoint.fingerprint import fingerprint
from rowspan.checkpoint.gguf import GgufCheckpoint, part_paths
from rowspan.checkpoint.gguf_header import TensorRecord
from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.errors import UnsupportedModelError
from rowspan.model.spec import ModelSpec
from rowspan.plan.rigs.gguf_outline import local_headers


@dataclass(frozen=True)
class ModelFacts:
    """The facts that every row states about its model.

    type: architecture, size class and most frequent scheme, as llama-bench writes them: "llama 135M Q4_1".
    size: bytes of all tensors.
    n_params: elements of all tensors.
    sha256: the file's checksum, if it is known without reading the whole file.
    """

    path: Path
    type: str
    size: int
    n_params: int
    fingerprint: str
    sha256: str | None

    def fields(self) -> dict[str, Any]:
        """The facts as fields of a row."""
        return {
            "model_filename": str(self.path),
            "model_type": self.type,
            "model_size": self.size,
            "model_n_params": self.n_params,
            "model_fingerprint": self.fingerprint,
            "model_sha256": self.sha256,
        }


def model_facts(checkpoint: GgufCheckpoint, spec: ModelSpec, sha256: str | None = None) -> ModelFacts:
    """Gather the facts from a GGUF file's header."""
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


def header_facts(path: Path, sha256: str | None = None) -> tuple[ModelFacts, int]:
    """The facts of a GGUF file that Rowspan's engine does not know, from its header alone, with the number of its token
    ids. Its size is that of its files. Raises RowspanError if a header cannot be read, or has no token embedding.
    """
    metadata: dict[str, Any] = {}
    tensors: list[TensorRecord] = []
    for header in local_headers(path):
        metadata = {**header.metadata, **metadata}
        tensors += header.tensors
    embedding = next((tensor for tensor in tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise UnsupportedModelError(f"{path} has no token embedding.", why="So it is no language model.")
    paths = part_paths(path)
    elements: Counter[int] = Counter()
    for tensor in tensors:
        elements[tensor.ggml_type] += math.prod(tensor.shape)
    number, n_params = elements.most_common(1)[0][0], elements.total()
    scheme = SCHEME_OF_TYPE.get(number, f"type {number}")
    known = ModelFacts(
        path=paths[0],
        type=f"{metadata.get('general.architecture', 'unknown')} {count_text(n_params).replace(' ', '')} {scheme}",
        size=sum(part.stat().st_size for part in paths),
        n_params=n_params,
        fingerprint=fingerprint(paths),
        sha256=sha256,
    )
    return known, embedding.shape[0]


def count_text(count: int) -> str:
    """A number of parameters in readable form: "135 M", "7.2 B"."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= factor:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return str(count)
