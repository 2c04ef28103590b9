"""Whether two hosts have the same model file, without reading all of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rowspan.checkpoint.gguf import GgufCheckpoint

SAMPLES, SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True)
class ModelStamp:
    """nbytes: of all files. digest: of their headers, and of weights here and there, which tell fine-tunes of one model
    from each other."""

    name: str
    nbytes: int
    digest: str

    def is_same(self, other: ModelStamp) -> bool:
        """Whatever the files are called."""
        return (self.nbytes, self.digest) == (other.nbytes, other.digest)


def model_stamp(checkpoint: GgufCheckpoint) -> ModelStamp:
    """Of an open checkpoint."""
    digest = hashlib.sha256()
    for path, header_bytes in zip(checkpoint.paths, checkpoint.header_bytes, strict=True):
        _digest_file(digest, path, header_bytes)
    return ModelStamp(checkpoint.paths[0].name, checkpoint.file_size, digest.hexdigest())


def _digest_file(digest: hashlib._Hash, path: Path, header_bytes: int) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest.update(file.read(header_bytes))
        for sample in range(SAMPLES):
            file.seek(size * sample // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
