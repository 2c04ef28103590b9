"""Identifies a model's files without reading all of them: by a fingerprint that is stored with results, and a stamp
that hosts compare before they share a model. Only a checksum of the whole file, which downloads have, is certain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rowspan.checkpoint.gguf import GgufCheckpoint

END_BYTES = 1 << 20
SAMPLES, SAMPLE_BYTES = 64, 4096


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over each file's size, first MiB and last MiB, which distinguishes files at once, however large they are.
    It is no checksum: a change in the middle goes unnoticed. Stored results and baselines contain it, so its definition
    must not change.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    return digest.hexdigest()


@dataclass(frozen=True)
class ModelStamp:
    """A stamp that identifies a model across hosts.

    nbytes: size of all files.
    digest: hash of their fingerprint, their headers, and samples of their weights, which distinguish fine-tunes of one
        model.
    """

    name: str
    nbytes: int
    digest: str

    def is_same(self, other: ModelStamp) -> bool:
        """Whether both stamps are of the same model, whatever its files are called."""
        return (self.nbytes, self.digest) == (other.nbytes, other.digest)


def model_stamp(checkpoint: GgufCheckpoint) -> ModelStamp:
    """The stamp of an open checkpoint. It reads some hundred KiB beyond the header and the fingerprint's bytes."""
    digest = hashlib.sha256(fingerprint(checkpoint.paths).encode())
    for path, header_bytes in zip(checkpoint.paths, checkpoint.header_bytes, strict=True):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(header_bytes))
            for sample in range(SAMPLES):
                file.seek(size * sample // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return ModelStamp(checkpoint.paths[0].name, checkpoint.file_size, digest.hexdigest())
